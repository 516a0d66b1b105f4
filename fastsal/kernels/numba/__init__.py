"""Kernels on a CPU, as functions for Numba to compile."""
