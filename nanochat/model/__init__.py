"""Which parameters a model has, and whether a saved state fits it."""
