"""The bigram in scalars: an embedding and an LM head. Only the last token counts."""

from __future__ import annotations

from collections.abc import Mapping

from nanochat.config.options import TrainConfig
from nanochat.scalar.functions import linear, rmsnorm, softcap
from nanochat.scalar.value import Matrix, Value

__all__ = ["Bigram"]


class Bigram:
    """logits = lm_head · wte[token], optionally with RMSNorm of the embedding."""

    def __init__(self, config: TrainConfig, matrices: Mapping[str, Matrix]) -> None:
        self.config = config
        self.wte = matrices["wte"]
        self.lm_head = (self.wte if config.tie_lm_head else matrices["lm_head"]).rows()

    def new_cache(self) -> None:
        """Return None: a bigram needs no keys and values."""

    def logits(self, token: int, position: int, cache: None) -> list[Value]:
        """Return the logits of the next token, (vocab_size,)."""
        x = self.wte.row(token)
        if self.config.input_rmsnorm:
            x = rmsnorm(x)
        return softcap(linear(x, self.lm_head), self.config.logit_softcap)
