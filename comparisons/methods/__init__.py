"""Saliency methods of the comparison, by name."""
