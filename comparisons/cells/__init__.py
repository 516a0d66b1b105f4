"""Cells: one piece of work each, recorded once."""
