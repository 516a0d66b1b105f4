"""Colours for maps, photographs and video clips."""
