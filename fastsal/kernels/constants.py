"""Numbers that kernels and their plain forms share."""

# Added to every activation before a logarithm, so that zeros have one.
EPSILON = 1e-6
# A spread this small beside the values is what float32 leaves of a constant map.
CONSTANT_SPREAD = 1e-6
