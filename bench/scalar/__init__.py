"""Benchmarks of the scalar engine."""
