"""What a saliency map is worth and what it costs; knows no method by name."""
