"""Cheaper settings of SMOE Scale: their cost beside their quality, from recorded runs."""
