"""Interpolated modified Kneser–Ney over token ids: NumPy arrays around the kernels of libnck.

csrc/kernels/abi.h has the formulas. Leaves out the choice of the order (baseline.py).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.data.documents import Documents
from nanochat.errors import KernelError
from nanochat.ngram.kernels import Arrays, check, kernels, pointer
from nanochat.ngram.matched import matched_tokens
from nanochat.system.threads import spare_threads

__all__ = ["MAX_ORDER", "Cutoff", "KneserNey"]

MAX_ORDER = 16
MOST_TARGETS = 1 << 27
# Targets of a long text that are sorted at a time, of up to 40 bytes each: 336 MB.
CHUNK = 1 << 23
# The arrays of the counts: rows of 32-bit integers of this many columns.
COLUMNS = {"stream": 1, "nodes": 2, "children": 2, "followers": 3}
CUT_COLUMNS = {**COLUMNS, "dropped": 2}  # of counts with a cut-off


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The n-grams that are dropped: of at least `length` tokens, seen less than `count` times."""

    length: int  # at least 2
    count: int = 2  # at least 2


class KneserNey:
    """An n-gram model of documents. Order N predicts a token from N − 1 tokens of context.

    The counts serve every order up to the one counted, so each method takes an `order`.

    >>> import numpy as np
    >>> from nanochat.data.documents import Documents
    >>> text = Documents.of(np.array([1, 2, 1, 2, 1]), np.array([0, 3, 5]))  # 1 2 1 and 2 1
    >>> model = KneserNey.count(text, order=2, vocab_size=3)
    >>> int(model.distribution([1, 2]).argmax())
    1
    """

    def __init__(
        self,
        counts: int,
        order: int,
        vocab_size: int,
        memory: object = None,
        cutoff: Cutoff | None = None,
    ) -> None:
        self._counts = counts  # address of an nck_ngrams, freed with this object
        self._memory = memory  # that the counts read, if it is not their own
        self.order, self.vocab_size = order, vocab_size
        self.cutoff = cutoff  # of counts that do not hold the text
        finalizer = weakref.finalize(self, kernels().nck_free_ngrams, counts)
        finalizer.atexit = False  # a daemon thread may still use the counts

    @classmethod
    def count(
        cls,
        documents: Documents,
        order: int,
        vocab_size: int,
        threads: int = 1,
        *,
        cutoff: Cutoff | None = None,
        chunk: int = CHUNK,
    ) -> KneserNey:
        """Count the n-grams of 1 … order tokens. The counts are equal for any `threads`.

        With a cut-off, the text is sorted in chunks of `chunk` targets, which takes up to 40 bytes
        for each, next to the counts and the text. The counts are equal for any `chunk`. Discounts
        and sums are those of all n-grams: what a dropped n-gram had goes to the shorter context.

        Raises KernelError for an order outside 1 … 16, tokens outside [1, vocab_size), more than
        2^27 tokens (2^31 with a cut-off), or too little memory.
        """
        _check_int32(order=order, threads=threads, vocab_size=vocab_size)
        if cutoff is not None:
            return cls._count_long(documents, order, vocab_size, threads, cutoff, chunk)
        tokens, offsets = _arrays(documents)
        counts = ctypes.c_void_p()
        status = kernels().nck_count_ngrams(
            pointer(tokens), pointer(offsets), documents.count, vocab_size, order,
            ctypes.addressof(counts), spare_threads(threads),
        )  # fmt: skip
        check(status)
        assert counts.value is not None
        return cls(counts.value, order, vocab_size)

    @classmethod
    def _count_long(
        cls, documents: Documents, order: int, vocab_size: int, threads: int, cutoff: Cutoff,
        chunk: int,
    ) -> KneserNey:  # fmt: skip
        _check_int32(cutoff_length=cutoff.length, cutoff_count=cutoff.count, chunk=chunk)
        stream = documents.stream
        if stream.dtype.kind == "i":  # no token is negative
            stream = stream.view(stream.dtype.str.replace("i", "u"))
        stream = np.ascontiguousarray(stream)
        counts = ctypes.c_void_p()
        status = kernels().nck_count_long_text(
            pointer(stream), stream.itemsize, documents.pairs, vocab_size, order, cutoff.length,
            cutoff.count, chunk, ctypes.addressof(counts), spare_threads(threads),
        )  # fmt: skip
        check(status)
        assert counts.value is not None
        return cls(counts.value, order, vocab_size, cutoff=cutoff)

    @classmethod
    def open(cls, order: int, vocab_size: int, arrays: Mapping[str, NDArray[Any]]) -> KneserNey:
        """Return the model whose `arrays()` these are. It reads them in place.

        Raises KernelError for arrays that no count can have left.
        """
        _check_int32(order=order, vocab_size=vocab_size)
        fields = Arrays(order=order, vocab=vocab_size, targets=len(arrays["stream"]) - 1)
        cutoff = None
        if "cut" in arrays:
            if arrays["counts_of_counts"].shape != (order, 2, 4):
                raise KernelError(
                    f"counts_of_counts must have the shape ({order}, 2, 4), got"
                    f" {arrays['counts_of_counts'].shape}"
                )
            fields.targets, length, count = arrays["cut"].tolist()
            cutoff = Cutoff(length, count)
            fields.counts_of_counts = pointer(arrays["counts_of_counts"])
        for name, columns in (CUT_COLUMNS if cutoff else COLUMNS).items():
            setattr(fields, name, pointer(arrays[name]))
            setattr(fields, f"{name}_size", arrays[name].size // columns)
        if arrays["discounts"].shape != (order, 2, 3):
            raise KernelError(
                f"discounts must have the shape ({order}, 2, 3), got {arrays['discounts'].shape}"
            )
        fields.discounts = pointer(arrays["discounts"])
        counts = ctypes.c_void_p()
        check(kernels().nck_open_ngrams(ctypes.addressof(fields), ctypes.addressof(counts)))
        assert counts.value is not None
        return cls(counts.value, order, vocab_size, dict(arrays), cutoff)

    @property
    def address(self) -> int:
        """Address of the counts for the kernels, valid as long as this object."""
        return self._counts

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return copies of the counts: stream, nodes, children and followers in uint32, and the
        discounts in float64.

        Those with a cut-off also have `dropped` in uint32, `counts_of_counts` in int64, and `cut`:
        the number of targets, and length and count of the cut-off.
        """
        return {name: array.copy() for name, array in self.views().items()}

    def views(self) -> dict[str, NDArray[Any]]:
        """Return `arrays` that are valid as long as this object."""
        fields = self._fields()
        arrays: dict[str, NDArray[Any]] = {}
        for name, columns in (CUT_COLUMNS if self.cutoff else COLUMNS).items():
            shape = (getattr(fields, f"{name}_size"), columns)
            arrays[name] = _viewed(getattr(fields, name), ctypes.c_uint32, shape)
        discounts = _viewed(fields.discounts, ctypes.c_double, (self.order, 6))
        arrays["discounts"] = discounts.reshape(self.order, 2, 3)
        if self.cutoff is not None:
            with_count = _viewed(fields.counts_of_counts, ctypes.c_int64, (self.order, 8))
            arrays["counts_of_counts"] = with_count.reshape(self.order, 2, 4)
            cut = fields.targets, self.cutoff.length, self.cutoff.count
            arrays["cut"] = np.array(cut, dtype=np.int64)
        return arrays

    def _fields(self) -> Arrays:
        fields = Arrays()
        check(kernels().nck_ngram_arrays_of(self._counts, ctypes.addressof(fields)))
        return fields

    @property
    def bytes(self) -> int:
        """Bytes of memory that the counts take."""
        return int(kernels().nck_ngram_bytes(self._counts))

    @property
    def entries(self) -> int:
        """Entries of the tables: contexts, their extensions and their followers."""
        fields = self._fields()
        return int(fields.nodes_size + fields.children_size + fields.followers_size)

    @property
    def targets(self) -> int:
        """Targets that were counted, the ends of documents included."""
        return int(self._fields().targets)

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
        probabilities: NDArray[np.float64] = self.distributions([context], order)[0]
        return probabilities

    def distributions(
        self, contexts: Sequence[ArrayLike], order: int | None = None, threads: int = 1
    ) -> NDArray[np.float64]:  # (contexts, vocab_size)
        """Return one `distribution` per context."""
        rows = [_int64(context) for context in contexts]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        tokens = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        result = np.empty((len(rows), self.vocab_size))
        order = self.order if order is None else order
        _check_int32(order=order, threads=threads)
        status = kernels().nck_ngram_distributions(
            self._counts, pointer(tokens), pointer(offsets), len(rows), order, pointer(result),
            threads,
        )  # fmt: skip
        check(status)
        return result

    def matched(self, context: Sequence[int]) -> int:
        """Return how many of the newest tokens of a context a counted document has, in order.

        At most order − 1, and none before BOS. A target follows them in the counted text.
        """
        return matched_tokens(self._in_place, self.order, context)

    @cached_property
    def _in_place(self) -> Mapping[str, NDArray[Any]]:
        return self._memory if isinstance(self._memory, dict) else self.views()

    def _losses(
        self, documents: Documents, least_order: int, most_order: int, threads: int
    ) -> NDArray[np.float64]:
        _check_int32(least_order=least_order, most_order=most_order, threads=threads)
        tokens, offsets = _arrays(documents)
        # An order that the kernel refuses must not decide the size.
        orders = most_order - least_order + 1 if most_order <= MAX_ORDER else 0
        result = np.empty((max(orders, 0), documents.pairs))
        status = kernels().nck_ngram_losses(
            self._counts, pointer(tokens), pointer(offsets), documents.count, least_order,
            most_order, pointer(result), spare_threads(threads),
        )  # fmt: skip
        check(status)
        return result


def _viewed(address: int | None, kind: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """Return the matrix at an address."""
    if not address or not shape[0]:
        return np.zeros(shape, dtype=np.dtype(kind))
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), shape)


def _check_int32(**numbers: int) -> None:
    """Raise KernelError for a number that ctypes would cut to 32 bits."""
    for name, number in numbers.items():
        if not 1 <= number < 1 << 31:
            raise KernelError(f"{name} must be in [1, 2^31), got {number}")


def _arrays(documents: Documents) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return tokens and offsets for the kernels, which cannot see the length of the tokens."""
    offsets = _int64(documents.offsets)
    if len(offsets) == 0 or offsets[-1] != documents.token_count:
        last = offsets[-1] if len(offsets) else "none"
        raise KernelError(
            f"the last offset must be the number of tokens, {documents.token_count}, got {last}"
        )
    if documents.pairs > MOST_TARGETS:  # refused before eight bytes per token are allocated
        raise KernelError(
            f"tokens and documents together must be at most 2^27, got {documents.token_count}"
            f" tokens in {documents.count} documents"
        )
    return _int64(documents.tokens), offsets


def _int64(values: ArrayLike) -> NDArray[np.int64]:
    return np.ascontiguousarray(values, dtype=np.int64)
