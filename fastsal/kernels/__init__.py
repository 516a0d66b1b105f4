"""SMOE Scale in one pass over memory: Numba on a CPU, Triton on a GPU."""
