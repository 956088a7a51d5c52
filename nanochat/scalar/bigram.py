"""The bigram in scalars: an embedding and an LM head. Only the last token counts."""

from __future__ import annotations

from collections.abc import Mapping

from nanochat.config.options import TrainConfig
from nanochat.scalar.functions import linear, rmsnorm, softcap
from nanochat.scalar.minigpt import See, unseen
from nanochat.scalar.value import Matrix, Value

__all__ = ["Bigram"]


class Bigram:
    """logits = lm_head · wte[token], optionally with RMSNorm of the embedding, once or twice."""

    def __init__(
        self, config: TrainConfig, matrices: Mapping[str, Matrix], see: See = unseen
    ) -> None:
        self.config, self.see = config, see
        self.wte = matrices["wte"]
        self.lm_head = (self.wte if config.tie_lm_head else matrices["lm_head"]).rows()

    def new_cache(self) -> None:
        """Return None: a bigram needs no keys and values."""

    def logits(self, token: int, position: int, cache: None) -> list[Value]:
        """Return the logits of the next token, (vocab_size,)."""
        x = self.see("embed.token", self.wte.row(token))
        if self.config.input_rmsnorm:
            x = self.see("embed.norm", rmsnorm(x))
        if self.config.output_rmsnorm:
            x = self.see("output.norm", rmsnorm(x))
        x = linear(x, self.lm_head)
        if cap := self.config.logit_softcap:
            x = softcap(self.see("logits_uncapped", x), cap)
        return self.see("logits", x)
