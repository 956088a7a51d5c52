"""Decoding the mixture of a network and counted n-grams, exactly as training computes it.

The kernels nck_mixed_logits and nck_sample_mixture look up the counts, mix and draw in one call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nanochat import native
from nanochat.data.batches import Batch
from nanochat.ngram.kernels import Mixture, check, kernels
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.share import Share, shares_of_parts, start_offset
from nanochat.sampling.cpu_draw import DrawsOnCpu
from nanochat.sampling.ngram import NgramEngine
from nanochat.sampling.recent import RecentTokens
from nanochat.sampling.sampling import OpensDecoders
from nanochat.system.threads import thread_count
from nanochat.training.engine import Decoder

__all__ = [
    "FEW_LOGITS",
    "KeepsLogits",
    "LOOKUP_LOGITS",
    "MixedDecoder",
    "NetworkAlone",
    "Parts",
    "mixed_with",
    "log_softmax",
    "parts_of_logits",
    "share_of_log_odds",
    "shares_of",
]

# Up to this much work, in logits, one thread is enough: a second one would wait longer than it
# works. Looking a context up takes about as long as mixing this many logits.
FEW_LOGITS, LOOKUP_LOGITS = 4096, 256


@runtime_checkable
class KeepsLogits(Protocol):
    """A decoder whose logits can be read in place, at the same address after each step."""

    kept_logits: NDArray[Any]  # (rows, vocab) float32 or float64, C-contiguous


class HasShare(Protocol):
    """An engine whose last logit is the share of the counts."""

    share: Share  # as in training.engine.Engine

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder: ...

    def network_losses(self, batch: Batch) -> NDArray[np.float64]: ...


def shares_of(network: Decoder, share: Share) -> NDArray[np.float64]:  # (rows, vocab + 1)
    """Return the share of the prediction that goes to each token by the network, and to the counts.

    share: of the engine of the network.
    """
    logits, log_odds = parts_of_logits(network.logits, share)
    shares = shares_of_parts(-logits, np.broadcast_to(log_odds[:, None], logits.shape))
    return np.concatenate((shares[..., 0], shares[:, :1, 1]), axis=1)


def parts_of_logits(
    logits: NDArray[Any],  # (rows, vocab + 1) of the network, the last one of the share
    share: Share,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the network's log probabilities, (rows, vocab), and the logarithm of the counts' share
    against its own, (rows,)."""
    logits = logits.astype(np.float64)
    log_sum = np.logaddexp.reduce(logits[:, :-1], axis=1)
    gate = logits[:, -1] + start_offset(logits.shape[1] - 1) - log_sum
    return logits[:, :-1] - log_sum[:, None], share.of(gate)


def mixed_with(network: HasShare, counts: KneserNey | None, threads: int = 1) -> OpensDecoders:
    """Return the mixture to draw samples from, or the network itself if there are no counts.

    Counts that predict alone are returned as they are.
    """
    if counts is None or isinstance(network, NgramEngine):
        return network
    return _Mixture(network, counts, thread_count(threads))


class _Mixture:
    def __init__(self, network: HasShare, counts: KneserNey, threads: int) -> None:
        self._network, self._counts, self._threads = network, counts, threads

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        return MixedDecoder(
            self._network.open_decoder(prompts), self._counts, prompts,
            share=self._network.share, threads=self._threads,
        )  # fmt: skip


class Parts(NamedTuple):
    """What a mixture is made of: (1 − share) · network + share · counts."""

    network: NDArray[np.float64]  # (rows, vocab) probability of each token by the network alone
    counts: NDArray[np.float64]  # (rows, vocab)
    share: NDArray[np.float64]  # (rows,) of the counts


class MixedDecoder(DrawsOnCpu):
    """Next-token logits of the mixture: log p(token). See training.engine.Decoder.

    The counts read the tokens of the text itself, also those that the window of the network has
    left behind, up to the beginning of the document.
    """

    def __init__(
        self,
        network: Decoder,  # its last logit is the share of the counts
        counts: KneserNey,
        prompts: Sequence[Sequence[int]],
        *,
        share: Share,  # of the engine of the network
        threads: int = 1,
    ) -> None:
        self._network, self._counts, self._share = network, counts, share
        self._recent = RecentTokens(prompts, counts.order - 1)
        rows, vocab = len(prompts), counts.vocab_size
        few = rows * (vocab + LOOKUP_LOGITS) <= FEW_LOGITS
        self._threads, self.draw_threads = 1 if few else threads, threads
        # The kernels' arguments. Addresses are made once: they would cost as much as the call.
        self._logits = network.kept_logits if isinstance(network, KeepsLogits) else None
        self._random, self._drawn = np.zeros(rows, np.uint64), np.zeros(rows, np.int64)
        self._random_address = int(self._random.ctypes.data)
        self._drawn_address = int(self._drawn.ctypes.data)
        self._fields = Mixture(
            ngrams=counts.address, context_stride=self._recent.stride, rows=rows,
            row_stride=vocab + 1, share_scale=share.scale,
            share_offset=share.scale * start_offset(vocab) + share.offset,
        )  # fmt: skip
        if self._logits is not None:
            self._point_to(self._logits)
        self._address = ctypes.addressof(self._fields)
        self._sample = kernels().nck_sample_mixture

    def _point_to(self, logits: NDArray[Any]) -> None:
        assert logits.shape == (self._fields.rows, self._fields.row_stride)
        assert logits.flags.c_contiguous
        self._fields.logits = logits.ctypes.data
        self._fields.dtype = native.DTYPES[logits.dtype.name]

    def _update(self) -> NDArray[Any] | None:
        """Point the kernels to the newest tokens and logits. The caller keeps the result."""
        fields, recent = self._fields, self._recent
        fields.contexts, fields.context_length = recent.address, recent.length
        if self._logits is not None:
            return self._logits
        logits: NDArray[Any] = np.ascontiguousarray(self._network.logits)
        self._point_to(logits)
        return logits

    @property
    def logits(self) -> NDArray[np.float64]:  # (rows, vocab)
        read = self._update()
        result = np.empty((len(self._drawn), self._counts.vocab_size))
        check(kernels().nck_mixed_logits(self._address, result.ctypes.data, self._threads))
        del read  # not before the call has read it
        return result

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
        read, count, chosen = self._update(), len(rows), None
        if count < len(self._drawn):
            rows = np.ascontiguousarray(rows, dtype=np.int64)
            chosen = rows.ctypes.data
        self._random[:count] = random
        status = self._sample(
            self._address, chosen, count, self._random_address, temperature, top_k, top_p,
            self._drawn_address, self._threads,
        )  # fmt: skip
        check(status)
        del read  # not before the call has read it
        return self._drawn[:count].copy()

    def parts(self) -> Parts:
        """Return what the network and the counts each say of the next tokens."""
        network, log_odds = parts_of_logits(self._network.logits, self._share)
        share = share_of_log_odds(log_odds)
        counts = self._counts.distributions(list(self._recent.contexts()), threads=self._threads)
        return Parts(np.exp(network), counts, share)

    def matched_orders(self) -> list[int]:
        """Return for each row the order of the longest n-grams that its text begins: one more than
        the newest tokens of the text that occur together in the counted text."""
        return [self._counts.matched(text) + 1 for text in self._recent.contexts().tolist()]

    def advance(self, ids: Sequence[int]) -> None:
        self._network.advance(ids)
        self._recent.append(ids)


def share_of_log_odds(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the counts, between 0 and 1."""
    share: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -log_odds))
    return share


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
