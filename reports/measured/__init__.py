"""Measures without retraining: scores image by image, their tests, and what they say."""
