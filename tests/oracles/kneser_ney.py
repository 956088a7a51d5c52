"""Interpolated modified Kneser–Ney smoothing with dictionaries, straight from the formulas.

After Chen and Goodman 1999, section 3.4 and the conventions of csrc/kernels/abi.h. Slow.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

BOS = 0
Gram = tuple[int, ...]


def targets(documents: Sequence[Sequence[int]]) -> Iterator[tuple[Gram, int]]:
    """Yield each target with all tokens before it in its document, BOS included."""
    for document in documents:
        padded = (BOS, *document, BOS)
        for i in range(1, len(padded)):
            yield padded[:i], padded[i]


def occurrences(
    documents: Sequence[Sequence[int]], length: int, unfinished: Sequence[int] | None = None
) -> Counter[Gram]:
    """Count the n-grams of exactly `length` tokens whose last one is a target.

    An unfinished document follows the others and has no end.
    """
    found: Counter[Gram] = Counter()
    texts = [(BOS, *document, BOS) for document in documents]
    if unfinished is not None:
        texts.append((BOS, *unfinished))
    for padded in texts:
        for end in range(max(length, 2), len(padded) + 1):
            found[padded[end - length : end]] += 1
    return found


def adjusted_counts(
    documents: Sequence[Sequence[int]], length: int, unfinished: Sequence[int] | None = None
) -> Counter[Gram]:
    """Count distinct preceding tokens, or occurrences of n-grams that begin with BOS."""
    counts: Counter[Gram] = Counter()
    for gram in occurrences(documents, length + 1, unfinished):
        counts[gram[1:]] += 1
    if length > 1:
        for gram, count in occurrences(documents, length, unfinished).items():
            if gram[0] == BOS:
                counts[gram] = count
    return counts


def discounts(counts: Counter[Gram]) -> tuple[float, float, float]:
    """Return D1, D2 and D3+ from the counts of counts."""
    with_count = Counter(counts.values())
    t = [with_count[k] for k in range(5)]
    if 0 in t[1:]:
        return 0.5, 1.0, 1.5
    y = t[1] / (t[1] + 2 * t[2])
    estimates = tuple(k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3))
    if not all(0 < d <= k for k, d in enumerate(estimates, start=1)):
        return 0.5, 1.0, 1.5
    return estimates[0], estimates[1], estimates[2]


class KneserNeyOracle:
    """The model of one order."""

    def __init__(
        self,
        documents: Sequence[Sequence[int]],
        order: int,
        vocab_size: int,
        unfinished: Sequence[int] | None = None,
        cutoff: tuple[int, int] | None = None,  # length and count: drop longer ones seen less often
    ) -> None:
        self.order, self.vocab_size = order, vocab_size
        self.followers: dict[Gram, dict[int, int]] = defaultdict(dict)
        self.sums: Counter[Gram] = Counter()  # of the counts of all followers, the dropped included
        self.discounts: list[tuple[float, float, float]] = []
        for length in range(1, order + 1):
            count = occurrences if length == order else adjusted_counts
            counts = count(documents, length, unfinished)
            self.discounts.append(discounts(counts))
            seen = occurrences(documents, length, unfinished)
            for gram, value in counts.items():
                self.sums[gram[:-1]] += value
                if cutoff is None or length < cutoff[0] or seen[gram] >= cutoff[1]:
                    self.followers[gram[:-1]][gram[-1]] = value

    def probability(self, context: Gram, target: int) -> float:
        """Return p(target | context). The context begins with BOS where its document does."""
        return self._probability(context[max(0, len(context) - self.order + 1) :], target)

    def _probability(self, context: Gram, target: int) -> float:
        lower = self._probability(context[1:], target) if context else 1 / self.vocab_size
        followers = self.followers.get(context)
        if not followers:
            return lower

        def discount(count: int) -> float:
            return self.discounts[len(context)][min(count, 3) - 1]

        count = followers.get(target, 0)
        own = count - discount(count) if count else 0.0
        kept = math.fsum(count - discount(count) for count in followers.values())
        backoff = 1 - kept / self.sums[context]
        return own / self.sums[context] + backoff * lower

    def losses(self, documents: Sequence[Sequence[int]]) -> list[float]:
        """Return −log p of each target, the ends of documents included."""
        return [-math.log(self.probability(c, t)) for c, t in targets(documents)]
