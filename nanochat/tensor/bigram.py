"""The bigram in tensors: one embedding, one head; the next token depends on this one alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Never

from nanochat.config.options import TrainConfig
from nanochat.tensor.embeddings import Bags
from nanochat.tensor.functions import rmsnorm
from nanochat.tensor.inputs import Inputs
from nanochat.tensor.weights import FlatWeights

__all__ = ["Bigram", "embedded"]


def embedded(wte: Tensor, tokens: Tensor, *, norm: bool) -> Tensor:  # (..., n_embd)
    """Rows of the embedding, normalised before or after the lookup, whichever is fewer rows."""
    if norm and len(wte) <= tokens.numel():
        return F.embedding(tokens, rmsnorm(wte))
    x = F.embedding(tokens, wte)
    return rmsnorm(x) if norm else x


class Bigram:
    """hidden = norm?(wte[token]); its logits are head · hidden."""

    def __init__(self, config: TrainConfig, weights: FlatWeights, vocab_size: int) -> None:
        self._norm = config.input_rmsnorm
        self.dtype = weights.dtype
        # From the master weights: a lookup costs the same and gradients add up in full precision.
        self.wte = weights.leaf("wte", rows=vocab_size, master=True)
        self.head = weights.leaf("wte" if config.tie_lm_head else "lm_head", rows=vocab_size)
        self.blocks: list[Never] = []

    def hidden(self, inputs: Inputs, masks: Sequence[Tensor] = ()) -> Tensor:
        """(rows · width, n_embd) in the compute dtype; the bigram has no dropout."""
        return self.embed(inputs.tokens, inputs.positions, None).to(self.dtype)

    def embed(
        self, tokens: Tensor, positions: Tensor, bags: Bags | None
    ) -> Tensor:  # (...,) -> (..., n_embd)
        """The embedding in the master dtype; a bigram knows no positions and no past."""
        return embedded(self.wte, tokens, norm=self._norm)
