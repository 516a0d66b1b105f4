"""Scores of a method from its accuracies, with intervals and tests."""
