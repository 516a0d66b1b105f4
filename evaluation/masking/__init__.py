"""Masks of exactly k pixels, the levels they are made from, and fills."""
