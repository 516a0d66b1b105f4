"""Kernels that read each activation once: by Numba on a CPU, by Triton on a GPU."""
