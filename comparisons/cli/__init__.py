"""Options and commands of ``python -m comparisons``."""
