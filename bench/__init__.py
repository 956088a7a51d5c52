"""Benchmarks: every published figure, with the command that measures it."""
