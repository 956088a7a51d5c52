"""The CPU fast paths of the tensor engine: the same names as in model.py, tested against it."""
