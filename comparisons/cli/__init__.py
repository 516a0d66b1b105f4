"""Commands of ``python -m comparisons``."""
