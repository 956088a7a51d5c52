"""Decoding the mixture of a network and counted n-grams, exactly as training computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanochat.ngram.kneser_ney import KneserNey
from nanochat.sampling.ngram import NgramEngine
from nanochat.sampling.sampling import OpensDecoders
from nanochat.training.engine import Decoder

__all__ = ["MixedDecoder", "mixed_with"]


def mixed_with(network: OpensDecoders, counts: KneserNey | None) -> OpensDecoders:
    """Return the mixture to draw samples from, or the network itself if there are no counts.

    Counts that predict alone are returned as they are.
    """
    if counts is None or isinstance(network, NgramEngine):
        return network
    return _Mixture(network, counts)


class _Mixture:
    def __init__(self, network: OpensDecoders, counts: KneserNey) -> None:
        self._network, self._counts = network, counts

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        return MixedDecoder(self._network.open_decoder(prompts), self._counts, prompts)


class MixedDecoder:
    """Next-token logits of the mixture: log p(token). See training.engine.Decoder.

    The counts read the tokens of the text itself, also those that the window of the network has
    left behind, up to the beginning of the document.
    """

    def __init__(
        self,
        network: Decoder,  # its last logit is the share of the counts
        counts: KneserNey,
        prompts: Sequence[Sequence[int]],
        threads: int = 1,
    ) -> None:
        self._network, self._counts, self._threads = network, counts, threads
        self._longest = counts.order - 1
        self._texts = [self._recent(list(prompt)) for prompt in prompts]

    def _recent(self, text: list[int]) -> list[int]:
        return text[max(len(text) - self._longest, 0) :]

    @property
    def logits(self) -> NDArray[np.float64]:  # (rows, vocab)
        logits = self._network.logits.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        shares /= shares.sum(axis=1, keepdims=True)
        counted = self._counts.distributions(self._texts, threads=self._threads)
        result: NDArray[np.float64] = np.log(shares[:, :-1] + shares[:, -1:] * counted)
        return result

    def advance(self, ids: Sequence[int]) -> None:
        self._network.advance(ids)
        self._texts = [
            self._recent([*text, int(token)]) for text, token in zip(self._texts, ids, strict=True)
        ]
