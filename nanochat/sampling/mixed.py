"""Decoding the mixture of a network and counted n-grams, exactly as training computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import Batch
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import start_offset
from nanochat.sampling.ngram import NgramEngine
from nanochat.sampling.sampling import OpensDecoders
from nanochat.training.engine import Decoder

__all__ = ["MixedDecoder", "NetworkAlone", "Parts", "mixed_with", "shares_of"]


class HasShare(Protocol):
    """An engine whose last logit is the share of the counts."""

    share_offset: float  # as in training.engine.Engine

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder: ...

    def network_losses(self, batch: Batch) -> NDArray[np.float64]: ...


def shares_of(
    network: Decoder,
    share_offset: float,  # of its engine
) -> NDArray[np.float64]:  # (rows, vocab + 1)
    """Return the softmax of a network's logits, the share of the counts last."""
    logits = _with_offset(network, share_offset)
    logits -= logits.max(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _with_offset(network: Decoder, share_offset: float) -> NDArray[np.float64]:
    logits = network.logits.astype(np.float64)  # (rows, vocab + 1)
    logits[:, -1] += start_offset(logits.shape[1] - 1) + share_offset
    return logits


def mixed_with(network: HasShare, counts: KneserNey | None) -> OpensDecoders:
    """Return the mixture to draw samples from, or the network itself if there are no counts.

    Counts that predict alone are returned as they are.
    """
    if counts is None or isinstance(network, NgramEngine):
        return network
    return _Mixture(network, counts)


class _Mixture:
    def __init__(self, network: HasShare, counts: KneserNey) -> None:
        self._network, self._counts = network, counts

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        decoder, offset = self._network.open_decoder(prompts), self._network.share_offset
        return MixedDecoder(decoder, self._counts, prompts, offset)


class Parts(NamedTuple):
    """What a mixture is made of: (1 − share) · network + share · counts."""

    network: NDArray[np.float64]  # (rows, vocab) probability of each token by the network alone
    counts: NDArray[np.float64]  # (rows, vocab)
    share: NDArray[np.float64]  # (rows,) of the counts


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
        share_offset: float,  # of the engine of the network
        threads: int = 1,
    ) -> None:
        self._network, self._counts, self._threads = network, counts, threads
        self._share_offset = share_offset
        self._longest = counts.order - 1
        self._texts = [self._recent(list(prompt)) for prompt in prompts]

    def _recent(self, text: list[int]) -> list[int]:
        return text[max(len(text) - self._longest, 0) :]

    @property
    def logits(self) -> NDArray[np.float64]:  # (rows, vocab)
        shares = shares_of(self._network, self._share_offset)
        result: NDArray[np.float64] = np.log(shares[:, :-1] + shares[:, -1:] * self._counted())
        return result

    def _counted(self) -> NDArray[np.float64]:  # (rows, vocab)
        return self._counts.distributions(self._texts, threads=self._threads)

    def parts(self) -> Parts:
        """Return what the network and the counts each say of the next tokens."""
        logits = _with_offset(self._network, self._share_offset)
        network = log_softmax(logits[:, :-1])
        rest = np.logaddexp.reduce(logits[:, :-1], axis=1)
        share = np.exp(logits[:, -1] - np.logaddexp(rest, logits[:, -1]))
        return Parts(np.exp(network), self._counted(), share)

    def matched_orders(self) -> list[int]:
        """Return for each row the order of the longest n-grams that its text begins: one more than
        the newest tokens of the text that occur together in the counted text."""
        return [self._counts.matched(text) + 1 for text in self._texts]

    def advance(self, ids: Sequence[int]) -> None:
        self._network.advance(ids)
        self._texts = [
            self._recent([*text, int(token)]) for text, token in zip(self._texts, ids, strict=True)
        ]


class NetworkAlone:
    """The network of a mixture without its counts: the softmax of the logits of the tokens."""

    def __init__(self, network: HasShare) -> None:
        self._network = network

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        return _WithoutShare(self._network.open_decoder(prompts))

    def token_losses(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length) nats
        return self._network.network_losses(batch)


class _WithoutShare:
    def __init__(self, network: Decoder) -> None:
        self._network = network

    @property
    def logits(self) -> NDArray[np.float64] | NDArray[np.float32]:  # (rows, vocab)
        logits: NDArray[Any] = self._network.logits[:, :-1]
        return logits

    def advance(self, ids: Sequence[int]) -> None:
        self._network.advance(ids)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:  # (…, vocab) each
    """Return the log probabilities of the logits."""
    result: NDArray[np.float64] = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return result
