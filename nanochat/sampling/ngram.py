"""Counted n-grams as a model: they score, decode and are saved as an engine, and never train.

Owns the engine and its decoder. The counts themselves are in ngram/, the file that holds them is
ngram/stored.py. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import IGNORE, Batch
from nanochat.model.state import check_shapes
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.reader import ContextReader
from nanochat.ngram.share import PLAIN_SHARE
from nanochat.sampling.cpu_draw import DrawsOnCpu
from nanochat.sampling.recent import RecentTokens
from nanochat.training.engine import EngineState, StepResult, StepSettings

__all__ = ["NgramDecoder", "NgramEngine"]


class NgramEngine:
    """Counts behind the engine Protocol. Its runs have no steps and its states no arrays."""

    mode = "scalar"
    backend = "ngram"
    device = "cpu"

    def __init__(self, counts: KneserNey) -> None:
        self.counts = counts
        self.share = PLAIN_SHARE  # there is no network

    def step(self, microbatches: Sequence[Batch], settings: StepSettings) -> StepResult:
        raise AssertionError("a run of counted n-grams has no steps")

    def token_losses(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length) nats
        # A context reaches beyond the row, so the probabilities come with the batch.
        assert batch.by_counts is not None
        nats: NDArray[np.float64] = -np.log(batch.by_counts.astype(np.float64))
        nats[batch.targets == IGNORE] = 0.0
        return nats

    def network_losses(self, batch: Batch) -> NDArray[np.float64]:
        raise AssertionError("counted n-grams have no network")

    def mixture_parts(self, batch: Batch) -> NDArray[np.float64]:
        raise AssertionError("counted n-grams have no network")

    def token_shares(self, batch: Batch) -> NDArray[np.float64]:
        raise AssertionError("counted n-grams have no network")

    def move_towards(self, weights: Mapping[str, NDArray[np.floating]], share: float) -> None:
        raise AssertionError("counted n-grams have no weights")

    def averaged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def notes(self) -> Sequence[str]:
        return ()

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> NgramDecoder:
        return NgramDecoder(self.counts, prompts)

    def state_dict(self) -> EngineState:
        return EngineState(weights={}, optimizer={})

    def load_state_dict(self, state: EngineState) -> None:
        check_shapes(state.weights, {}, "weight")


class NgramDecoder(DrawsOnCpu):
    """Next-token logits of rows that grow together: log p(token) by the counts.

    See training.engine.Decoder. A row is its last order − 1 tokens; its text may be of any length.
    """

    def __init__(self, counts: KneserNey, prompts: Sequence[Sequence[int]]) -> None:
        self._recent = RecentTokens(prompts, counts.order - 1)
        self._reader = ContextReader(counts, len(prompts))

    @property
    def logits(self) -> NDArray[np.float64]:  # (rows, vocab)
        return np.log(self._reader.distributions(self._recent.contexts()))

    def advance(self, ids: Sequence[int]) -> None:
        self._recent.append(ids)

    def draw_own(
        self,
        rows: NDArray[np.intp],
        random: NDArray[np.uint64],
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:
        """See sampling.sampling.DrawsOwnTokens. The rows that have ended are not looked up."""
        contexts = self._recent.contexts()
        if len(rows) < len(contexts):
            contexts = contexts[rows]
        logits = self._reader.distributions(contexts)
        np.log(logits, out=logits)
        return self.draw(logits, random, temperature=temperature, top_k=top_k, top_p=top_p)
