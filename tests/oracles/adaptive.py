"""Counts that grow and learn, straight from the formulas of csrc/kernels/abi.h. Very slow.

Every prediction counts training text and read text afresh.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from oracles.kneser_ney import BOS, Gram, KneserNeyOracle

SHARE = 1 / (1 + math.exp(4))


class Learned:
    """Numbers that begin with 0 and follow a slope, with the step size of AdaGrad."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.value: dict[object, float] = defaultdict(float)
        self.squares: dict[object, float] = defaultdict(lambda: 0.01)

    def add(self, key: object, slope: float) -> None:
        self.squares[key] += slope**2
        self.value[key] += self.rate * slope / math.sqrt(self.squares[key])


def class_of(followers: dict[int, int]) -> tuple[int, int]:
    types, total = len(followers), sum(followers.values())
    by_types = sum(types > limit for limit in (1, 2, 4, 8, 16))
    by_sum = sum(total >= limit for limit in (2 * types, 4 * types, 16 * types))
    return by_types, 0 if total == types else by_sum + 1


class LearnedKneserNey:
    """One model with learned discounts. It must be told what it has counted."""

    def __init__(self, order: int, rate: float) -> None:
        self.order, self.shifts = order, Learned(rate)
        self.counted: KneserNeyOracle

    def contexts(self, context: Gram) -> list[Gram]:
        """The contexts with followers, the empty one first."""
        longest = context[max(0, len(context) - self.order + 1) :]
        suffixes = [longest[len(longest) - n :] for n in range(len(longest) + 1)]
        return [suffix for suffix in suffixes if self.counted.followers.get(suffix)]

    def discount(self, context: Gram, count: int) -> float:
        k = min(count, 3)
        estimate = self.counted.discounts[len(context)][k - 1]
        if self.shifts.rate == 0:
            return estimate
        r = min(max(estimate / k, 0.02), 0.98)
        key = len(context), class_of(self.counted.followers[context]), k
        raised = r * math.exp(self.shifts.value[key])
        return k * raised / (1 - r + raised)

    def probability(self, context: Gram, target: int) -> float:
        result = 1 / self.counted.vocab_size
        for each in self.contexts(context):
            followers = self.counted.followers[each]
            count = followers.get(target, 0)
            own = count - self.discount(each, count) if count else 0.0
            left = math.fsum(self.discount(each, c) for c in followers.values())
            result = (own + left * result) / sum(followers.values())
        return result

    def learn(self, context: Gram, target: int) -> None:
        """Add to each shift its slope, the difference quotient of log p(target)."""
        if self.shifts.rate == 0:
            return
        slopes, tiny = {}, 1e-5
        for each in self.contexts(context):
            followers = self.counted.followers[each]
            for k in {min(count, 3) for count in followers.values()}:
                key = len(each), class_of(followers), k
                before = self.shifts.value[key]
                logs = []
                for moved in (before + tiny, before - tiny):
                    self.shifts.value[key] = moved
                    logs.append(math.log(self.probability(context, target)))
                self.shifts.value[key] = before
                slopes[key] = (logs[0] - logs[1]) / (2 * tiny)
        for key, slope in slopes.items():
            self.shifts.add(key, slope)


class AdaptiveOracle:
    """The whole model, with or without a network."""

    def __init__(
        self, documents: Sequence[Sequence[int]], order: int, vocab_size: int, read_order: int,
        discount_rate: float, gate_rate: float,
    ) -> None:  # fmt: skip
        self.documents, self.vocab_size = list(documents), vocab_size
        self.read: list[list[int]] = []
        self.text: list[int] = []  # of the document that is not finished
        self.joint = LearnedKneserNey(order, discount_rate)
        self.recent = LearnedKneserNey(read_order, discount_rate)
        self.gates = {name: Learned(gate_rate) for name in ("recent", "network")}
        self.last = BOS
        self.count()

    def count(self) -> None:
        for model, documents in ((self.joint, self.documents), (self.recent, [])):
            model.counted = KneserNeyOracle(
                [*documents, *self.read], model.order, self.vocab_size, self.text
            )

    def features(self) -> list[tuple[str, object]]:
        known = []
        for model in (self.recent, self.joint):
            contexts = model.contexts((BOS, *self.text))
            types = len(model.counted.followers[contexts[-1]]) if contexts else 0
            known.append((len(contexts), min(types, 4)))
        return [("read", known[0]), ("both", known[1]), ("last", self.last % 1024)]

    def bias(self, name: str) -> float:
        return sum(self.gates[name].value[feature] for feature in self.features())

    def mix(self, name: str, own: float, other: float, share: float) -> float:
        raised = math.exp(self.bias(name)) * share
        return (own + raised * other) / (1 - share + raised)

    def by_counts(self, target: int) -> tuple[float, float]:
        """The two probabilities that the first gate mixes, the first with its share."""
        context = (BOS, *self.text)
        joint, recent = (m.probability(context, target) for m in (self.joint, self.recent))
        return (1 - SHARE) * joint, recent

    def probability(self, target: int, network: Sequence[float] | None = None) -> float:
        counted = self.mix("recent", *self.by_counts(target), SHARE)
        return counted if network is None else self.mix("network", network[0], counted, network[1])

    def learn(self, target: int, network: Sequence[float] | None = None) -> None:
        gates = [("recent", *self.by_counts(target), SHARE)]
        if network is not None:
            counted = self.mix("recent", *self.by_counts(target), SHARE)
            gates.append(("network", network[0], counted, network[1]))
        slopes = []
        for name, own, other, share in gates:
            raised = math.exp(self.bias(name)) * share
            weight = raised / (1 - share + raised)
            slopes.append((name, weight * (other / self.mix(name, own, other, share) - 1)))
        for name, slope in slopes:
            for feature in self.features():
                self.gates[name].add(feature, slope)
        for model in (self.joint, self.recent):
            model.learn((BOS, *self.text), target)
        if target == BOS:
            self.read.append(self.text)
            self.text = []
        else:
            self.text.append(target)
        self.last = target
        self.count()
