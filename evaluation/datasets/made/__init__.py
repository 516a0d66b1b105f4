"""Sets of volumes and signals that are made from a seed, their objects known."""
