"""model.MiniGPT on the CPU: the same parameters and the same hidden states, by our kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.tensor import model
from nanochat.tensor.embeddings import EmbeddingTables
from nanochat.tensor.inputs import Inputs
from nanochat.tensor.native.blocks import BlockMatrices, BlockOptions, run_blocks
from nanochat.tensor.native.embedding import embed
from nanochat.tensor.native.functions import dropout, rmsnorm
from nanochat.tensor.weights import FlatWeights

__all__ = ["MiniGPT"]


class MiniGPT(model.MiniGPT):
    """The model of either kind; a bigram is a mini-GPT without positions and blocks."""

    def __init__(self, config: TrainConfig, weights: FlatWeights, vocab_size: int) -> None:
        super().__init__(config, weights, vocab_size)
        self._embeddings = EmbeddingTables.of(config, vocab_size)
        self._options = BlockOptions.of(config)
        self._matrices = [BlockMatrices.of(block) for block in self.blocks]

    def hidden(self, inputs: Inputs, caches: Sequence[model.KeyValueCache] | None = None) -> Tensor:
        """See model.MiniGPT.hidden. Decoding with caches runs that method itself."""
        if caches is not None:
            return super().hidden(inputs, caches)
        x = self._embed(inputs)
        if inputs.dropout_masks:
            x = dropout(x, inputs.dropout_masks[0])
        if not self._matrices:
            return (rmsnorm(x) if self.config.output_rmsnorm else x).to(self.dtype)
        return run_blocks(x, self._matrices, inputs, self._options)

    def _embed(self, inputs: Inputs) -> Tensor:
        norm = self.config.input_rmsnorm
        wte, wpe = self.embedding.wte, self.embedding.wpe
        if wpe is None:
            return embed(wte, inputs, self._embeddings, norm=norm)
        x = embed(wte, inputs, self._embeddings, norm=False)
        x = x + F.embedding(inputs.positions, wpe)
        return rmsnorm(x) if norm else x
