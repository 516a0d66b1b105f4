"""Figures as SVG, and pictures of maps."""
