"""Cells, the recorded units of a run: trainings, maps, measures and costs."""
