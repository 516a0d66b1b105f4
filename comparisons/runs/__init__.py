"""Runs of every kind, from the first cell to the page and the archive."""
