"""Cost of a saliency map: time, operations, memory."""
