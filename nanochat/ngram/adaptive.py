"""Counts that grow with the text that they read, on top of a frozen Kneser–Ney model.

csrc/kernels/abi.h has the formulas. Leaves out how a network adapts (training/adapting.py).
"""

from __future__ import annotations

import ctypes
import weakref

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.errors import KernelError
from nanochat.ngram.kernels import check, kernels, pointer
from nanochat.ngram.kneser_ney import KneserNey

__all__ = ["DISCOUNT_RATE", "GATE_RATE", "READ_ORDER", "AdaptiveCounts"]

# Chosen on parts of texts that no score is taken from. On the last of nine tenths of Shakespeare,
# as characters at order 8, counts predict 1.497 nats per character, 1.406 if they grow, 1.380 if
# the discounts are learned as well, and 1.359 with the counts of the read text. On Python's library
# at order 12 these are 1.352, 1.088, 1.078 and 1.023.
READ_ORDER = 16
DISCOUNT_RATE, GATE_RATE = 0.2, 0.5


class AdaptiveCounts:
    """Counts of a training text and of the text read so far.

    >>> import numpy as np
    >>> from nanochat.data.documents import Documents
    >>> text = Documents.of(np.array([1, 2, 1]), np.array([0, 3]))
    >>> counts = AdaptiveCounts(KneserNey.count(text, order=2, vocab_size=4))
    >>> before, after = counts.read([3, 3])  # nats of each token, before it is counted
    >>> bool(after < before)
    True
    """

    def __init__(
        self,
        frozen: KneserNey,
        *,
        begins: bool = True,  # the text to read begins with a document
        read_order: int = READ_ORDER,  # 0: no counts of the read text alone
        discount_rate: float = DISCOUNT_RATE,  # 0: the discounts that the counts of counts estimate
        gate_rate: float = GATE_RATE,
    ) -> None:
        self.frozen = frozen
        address = ctypes.c_void_p()
        status = kernels().nck_open_adaptive(
            frozen.address, frozen.order, read_order, int(begins), discount_rate, gate_rate,
            ctypes.addressof(address),
        )  # fmt: skip
        check(status)
        self._keep(address)

    def copy(self) -> AdaptiveCounts:
        """Return counts that have read the same text and grow independently of these."""
        copied = object.__new__(AdaptiveCounts)
        copied.frozen = self.frozen
        address = ctypes.c_void_p()
        check(kernels().nck_copy_adaptive(self._address, ctypes.addressof(address)))
        copied._keep(address)
        return copied

    def _keep(self, address: ctypes.c_void_p) -> None:
        assert address.value is not None
        self._address = address.value
        finalizer = weakref.finalize(self, kernels().nck_free_adaptive, self._address)
        finalizer.atexit = False  # a daemon thread may still use the counts

    @property
    def bytes(self) -> int:
        """Bytes of memory that the read text takes, without the frozen counts."""
        return int(kernels().nck_adaptive_bytes(self._address))

    def read(
        self,
        tokens: ArrayLike,  # (tokens,) ids; BOS ends a document
        network: ArrayLike | None = None,  # (tokens, 2) shares of each token and of the counts
    ) -> NDArray[np.float64]:  # (tokens,)
        """Return the nats of each token, and count each one after it is scored.

        With the shares of a network they are the nats of the mixture. Raises KernelError for a
        token outside the vocabulary and for a share outside [0, 1].
        """
        return self.read_both(tokens, network)[0]

    def read_both(
        self, tokens: ArrayLike, network: ArrayLike | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # (tokens,) each
        """Return what `read` returns, and the nats of each token by the counts alone."""
        tokens = np.ascontiguousarray(tokens, dtype=np.int64)
        losses, counted = np.empty(len(tokens)), np.empty(len(tokens))
        shares = _shares(network, (len(tokens), 2))
        status = kernels().nck_adaptive_read(
            self._address, pointer(tokens), len(tokens),
            None if shares is None else pointer(shares), pointer(losses), pointer(counted),
        )  # fmt: skip
        check(status)
        return losses, counted

    def distribution(
        self,
        network: ArrayLike | None = None,  # (vocab_size + 1,) shares of the tokens and the counts
    ) -> NDArray[np.float64]:  # (vocab_size,)
        """Return the probability of each token after the text read so far."""
        result = np.empty(self.frozen.vocab_size)
        shares = _shares(network, (len(result) + 1,))
        status = kernels().nck_adaptive_distribution(
            self._address, None if shares is None else pointer(shares), pointer(result)
        )
        check(status)
        return result


def _shares(network: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    if network is None:
        return None
    shares = np.ascontiguousarray(network, dtype=np.float64)
    if shares.shape != shape:
        raise KernelError(
            f"the shares of a network must have the shape {shape}, got {shares.shape}"
        )
    return shares
