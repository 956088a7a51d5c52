"""The parameters of each model, and the check that a saved state fits them."""
