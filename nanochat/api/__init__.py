"""A trained model as a Python object: `nanochat.load` and what it returns."""
