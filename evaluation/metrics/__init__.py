"""Measures of saliency maps without retraining."""
