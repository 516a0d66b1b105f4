"""Retraining with equal conditions: recipes, schedules, augmentation, ranks."""
