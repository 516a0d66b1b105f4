"""Estimates of a plan: passes through networks, hours and disk."""
