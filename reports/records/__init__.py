"""A run's records as data frames, and estimates made of them."""
