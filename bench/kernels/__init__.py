"""Microbenchmarks of the kernels."""
