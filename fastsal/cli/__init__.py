"""The command ``fastsal``."""
