"""Runs, from the first cell to the page and to the archive."""
