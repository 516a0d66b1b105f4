"""Evaluation of saliency maps: their worth and their cost; knows no method by name."""
