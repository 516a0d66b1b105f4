"""Colour pictures of maps, photograph files and video files."""
