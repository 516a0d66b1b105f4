"""A model that is after a forward pass what it was before, bit for bit."""
