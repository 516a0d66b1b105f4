"""Compatibility of fastsal with networks: one measured row for each, and the page's tables."""
