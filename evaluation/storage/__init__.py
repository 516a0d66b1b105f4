"""A run's folder: records, and files written whole or not at all."""
