"""Geometry: where in the image the elements of a network's tensors lie."""
