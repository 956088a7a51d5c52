"""Value, Tape, Matrix and the functions on Values: names of nanochat._scalar, without logic."""

from nanochat._scalar import Matrix, Tape, Token, Value, default_tape, detached_max, select

__all__ = ["Matrix", "Tape", "Token", "Value", "default_tape", "detached_max", "select"]
