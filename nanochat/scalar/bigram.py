"""The bigram in scalars: one embedding, one head; the next token depends on this one alone."""

from __future__ import annotations

from collections.abc import Mapping

from nanochat.config.options import TrainConfig
from nanochat.scalar.functions import linear, rmsnorm, softcap
from nanochat.scalar.value import Matrix, Value

__all__ = ["Bigram"]


class Bigram:
    """logits = head · norm?(wte[token])."""

    def __init__(self, config: TrainConfig, matrices: Mapping[str, Matrix]) -> None:
        self.config = config
        self.wte = matrices["wte"]
        self.head = (self.wte if config.tie_lm_head else matrices["lm_head"]).rows()

    def new_cache(self) -> None:
        """A bigram remembers nothing."""

    def logits(self, token: int, position: int, cache: None) -> list[Value]:
        x = self.wte.row(token)
        if self.config.input_rmsnorm:
            x = rmsnorm(x)
        return softcap(linear(x, self.head), self.config.logit_softcap)
