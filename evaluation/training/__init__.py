"""Retraining with equal conditions: networks, recipes, augmentation, ranks."""
