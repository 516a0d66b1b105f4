"""Families of networks: the last scale of one member of each, and what runs after it."""
