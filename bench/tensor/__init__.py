"""Benchmarks of the tensor engine."""
