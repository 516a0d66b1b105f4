"""Constants shared by kernels and the same formulas in PyTorch's operations."""

# Added to each activation, so that zeros have a logarithm.
EPSILON = 1e-6
# A map counts as constant if its spread, divided by its largest magnitude, is no more than this:
# float32 leaves as much by rounding.
CONSTANT_SPREAD = 1e-6
