"""Interpolated modified Kneser–Ney over token ids: NumPy arrays around the kernels of libnck.

csrc/kernels/abi.h has the formulas. Leaves out the choice of the order (baseline.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat import native
from nanochat.data.documents import Documents

__all__ = ["MAX_ORDER", "KneserNey"]

MAX_ORDER = 16


class KneserNey:
    """An n-gram model of documents. Order N predicts a token from N − 1 tokens of context.

    The counts serve every order up to the one counted, so each method takes an `order`.

    >>> import numpy as np
    >>> from nanochat.data.documents import Documents
    >>> text = Documents(np.array([1, 2, 1, 2, 1]), np.array([0, 3, 5]))  # 1 2 1 and 2 1
    >>> model = KneserNey.count(text, order=2, vocab_size=3)
    >>> int(model.distribution([1, 2]).argmax())
    1
    """

    def __init__(self, counts: Any, order: int, vocab_size: int) -> None:
        self._counts = counts  # nck_ngrams *, freed with this object
        self.order, self.vocab_size = order, vocab_size

    @classmethod
    def count(
        cls, documents: Documents, order: int, vocab_size: int, threads: int = 1
    ) -> KneserNey:
        """Count the n-grams of 1 … order tokens. The counts are equal for any `threads`.

        Raises KernelError for an order outside 1 … 16, tokens outside [1, vocab_size), more than
        2^27 tokens, or too little memory.
        """
        library, counts = native.cpu(), native.ffi.new("nck_ngrams **")
        tokens, offsets = _int64(documents.tokens), _int64(documents.offsets)
        status = library.nck_count_ngrams(
            _pointer(tokens), _pointer(offsets), documents.count, vocab_size, order, counts, threads
        )
        native.check(status, library)
        return cls(native.ffi.gc(counts[0], library.nck_free_ngrams), order, vocab_size)

    @property
    def bytes(self) -> int:
        """Bytes of memory that the counts take."""
        return int(native.cpu().nck_ngram_bytes(self._counts))

    def token_losses(
        self, documents: Documents, order: int | None = None, threads: int = 1
    ) -> NDArray[np.float64]:  # (documents.pairs,)
        """Return the nats of each target, in the order of `token_stream`, BOS included."""
        order = self.order if order is None else order
        losses: NDArray[np.float64] = self._losses(documents, order, order, threads)[0]
        return losses

    def token_losses_by_order(
        self, documents: Documents, threads: int = 1
    ) -> NDArray[np.float64]:  # (order, documents.pairs)
        """Return `token_losses` for the orders 1 … order, computed in one pass."""
        return self._losses(documents, 1, self.order, threads)

    def distribution(
        self, context: ArrayLike, order: int | None = None
    ) -> NDArray[np.float64]:  # (vocab_size,)
        """Return the probability of each token after a context.

        A context that reaches back to the beginning of its document begins with BOS.
        """
        return self.distributions([context], order)[0]

    def distributions(
        self, contexts: Sequence[ArrayLike], order: int | None = None, threads: int = 1
    ) -> NDArray[np.float64]:  # (contexts, vocab_size)
        """Return one `distribution` per context."""
        rows = [_int64(context) for context in contexts]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        tokens = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        result = np.empty((len(rows), self.vocab_size))
        library = native.cpu()
        status = library.nck_ngram_distributions(
            self._counts, _pointer(tokens), _pointer(offsets), len(rows),
            self.order if order is None else order, _pointer(result, "double"), threads,
        )  # fmt: skip
        native.check(status, library)
        return result

    def _losses(
        self, documents: Documents, least_order: int, most_order: int, threads: int
    ) -> NDArray[np.float64]:
        tokens, offsets = _int64(documents.tokens), _int64(documents.offsets)
        result = np.empty((max(most_order - least_order + 1, 0), documents.pairs))
        library = native.cpu()
        status = library.nck_ngram_losses(
            self._counts, _pointer(tokens), _pointer(offsets), documents.count, least_order,
            most_order, _pointer(result, "double"), threads,
        )  # fmt: skip
        native.check(status, library)
        return result


def _int64(values: ArrayLike) -> NDArray[np.int64]:
    return np.ascontiguousarray(values, dtype=np.int64)


def _pointer(array: NDArray[Any], kind: str = "int64_t") -> Any:
    return native.ffi.cast(f"{kind} *", array.ctypes.data)
