"""Decoding the mixture of a network and counts that grow with the text that they read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanochat.data.tokenizer import BOS
from nanochat.ngram.adaptive import AdaptiveCounts
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.share import PLAIN_SHARE, Share
from nanochat.sampling.mixed import HasShare, shares_of
from nanochat.sampling.sampling import OpensDecoders
from nanochat.training.engine import Decoder

__all__ = ["AdaptiveDecoder", "adaptive_mixture"]


def adaptive_mixture(network: HasShare | None, counts: KneserNey) -> OpensDecoders:
    """Return the mixture to draw samples from, or without a network the counts.

    Each text has its counts; the network is frozen.
    """
    return _AdaptiveMixture(network, counts)


class _AdaptiveMixture:
    def __init__(self, network: HasShare | None, counts: KneserNey) -> None:
        self._network, self._counts = network, counts

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        if self._network is None:
            return AdaptiveDecoder(None, self._counts, prompts)
        decoder = self._network.open_decoder(prompts)
        return AdaptiveDecoder(decoder, self._counts, prompts, share=self._network.share)


class AdaptiveDecoder:
    """Next-token logits of the mixture: log p(token). See training.engine.Decoder.

    The counts of each row read its prompt and each token after it.
    """

    def __init__(
        self,
        network: Decoder | None,  # its last logit is the share of the counts
        counts: KneserNey,
        prompts: Sequence[Sequence[int]],
        *,
        share: Share = PLAIN_SHARE,  # of the engine of the network
    ) -> None:
        self._network, self._share = network, share
        self._shares = None if network is None else shares_of(network, share)
        read: dict[tuple[int, ...], AdaptiveCounts] = {}
        self._rows = []
        for prompt in map(tuple, prompts):
            if prompt not in read:
                read[prompt] = _after(prompt, counts)
            self._rows.append(read[prompt].copy())

    @property
    def logits(self) -> NDArray[np.float64]:  # (rows, vocab)
        shares = self._shares
        result: NDArray[np.float64] = np.log([
            counts.distribution(None if shares is None else shares[row])
            for row, counts in enumerate(self._rows)
        ])  # fmt: skip
        return result

    def advance(self, ids: Sequence[int]) -> None:
        shares = self._shares
        for row, (counts, token) in enumerate(zip(self._rows, ids, strict=True)):
            counts.read(
                [token], None if shares is None else shares[row : row + 1, [int(token), -1]]
            )
        if self._network is not None:
            self._network.advance(ids)
            self._shares = shares_of(self._network, self._share)


def _after(prompt: tuple[int, ...], counts: KneserNey) -> AdaptiveCounts:
    """Return counts that have read a prompt. BOS at its beginning is not a target."""
    begins = prompt[:1] == (BOS,)
    adaptive = AdaptiveCounts(counts, begins=begins)
    adaptive.read(prompt[1:] if begins else prompt)
    return adaptive
