"""Masks of exactly k pixels, levels of saliency, and fills."""
