"""A run's records as data frames."""
