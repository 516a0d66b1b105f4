"""Identical retraining: networks, recipes, augmentation, ranks."""
