"""Metrics of saliency maps that need no retraining."""
