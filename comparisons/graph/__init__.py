"""Graphs of cells: the nodes of a plan, their names, needs and specifications."""
