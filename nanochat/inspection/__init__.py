"""Every number of a model on a text: activations and gradients by name, on both engines."""
