"""Runs of plans, and their folders."""
