"""The scalar engine's numbers: Value, Tape, Matrix. A front for nanochat._scalar; no logic here."""

from nanochat._scalar import Matrix, Tape, Token, Value, default_tape, detached_max, select

__all__ = ["Matrix", "Tape", "Token", "Value", "default_tape", "detached_max", "select"]
