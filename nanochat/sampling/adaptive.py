"""Decoding the mixture of a network and counts that grow with the text that they read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanochat.data.tokenizer import BOS
from nanochat.ngram.adaptive import AdaptiveCounts
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.sampling.mixed import shares_of
from nanochat.sampling.sampling import OpensDecoders
from nanochat.training.engine import Decoder

__all__ = ["AdaptiveDecoder", "adaptive_mixture"]


def adaptive_mixture(network: OpensDecoders, counts: KneserNey) -> OpensDecoders:
    """Return the mixture to draw samples from. Each text has its counts; the network is frozen."""
    return _AdaptiveMixture(network, counts)


class _AdaptiveMixture:
    def __init__(self, network: OpensDecoders, counts: KneserNey) -> None:
        self._network, self._counts = network, counts

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        return AdaptiveDecoder(self._network.open_decoder(prompts), self._counts, prompts)


class AdaptiveDecoder:
    """Next-token logits of the mixture: log p(token). See training.engine.Decoder.

    The counts of each row read its prompt and each token after it.
    """

    def __init__(
        self,
        network: Decoder,  # its last logit is the share of the counts
        counts: KneserNey,
        prompts: Sequence[Sequence[int]],
    ) -> None:
        self._network = network
        self._shares = shares_of(network)
        read: dict[tuple[int, ...], AdaptiveCounts] = {}
        self._rows = []
        for prompt in map(tuple, prompts):
            if prompt not in read:
                read[prompt] = _after(prompt, counts)
            self._rows.append(read[prompt].copy())

    @property
    def logits(self) -> NDArray[np.float64]:  # (rows, vocab)
        pairs = zip(self._rows, self._shares, strict=True)
        result: NDArray[np.float64] = np.log([counts.distribution(s) for counts, s in pairs])
        return result

    def advance(self, ids: Sequence[int]) -> None:
        for counts, shares, token in zip(self._rows, self._shares, ids, strict=True):
            counts.read([token], shares[None, [int(token), -1]])
        self._network.advance(ids)
        self._shares = shares_of(self._network)


def _after(prompt: tuple[int, ...], counts: KneserNey) -> AdaptiveCounts:
    """Return counts that have read a prompt. BOS at its beginning is no target."""
    begins = prompt[:1] == (BOS,)
    adaptive = AdaptiveCounts(counts, begins=begins)
    adaptive.read(prompt[1:] if begins else prompt)
    return adaptive
