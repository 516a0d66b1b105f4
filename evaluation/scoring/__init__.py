"""Scores of methods from their accuracies, with intervals and tests."""
