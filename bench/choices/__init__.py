"""Benchmarks behind the choices of presets, engine and budget."""
