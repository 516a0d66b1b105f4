"""Graphs of cells: what each cell of a plan needs."""
