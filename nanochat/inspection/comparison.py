"""Two traces of one text side by side: the first array that differs, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import Batch
from nanochat.inspection.trace import Trace
from nanochat.runs.load import TrainedModel

__all__ = ["Comparison", "Difference", "compared", "with_program"]

Numbers = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One array in both traces, or only in one of them."""

    name: str
    largest: float | None  # absolute difference; None: the shapes differ, or one has no such array
    index: tuple[int, ...] | None  # of the largest difference; None: there is none
    here: float | None  # the numbers there
    there: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All arrays in the order of the computation, and the first one that differs."""

    differences: tuple[Difference, ...]

    @property
    def first(self) -> Difference | None:
        """The first array that is not equal in both."""
        return next((each for each in self.differences if each.largest != 0.0), None)


def compared(here: Numbers, there: Numbers) -> Comparison:
    """Compare every array of two traces, or of other mappings from names to arrays."""
    names = [*here, *(name for name in there if name not in here)]
    return Comparison(differences=tuple(_difference(name, here, there) for name in names))


def with_program(here: Trace, trained: TrainedModel) -> Comparison:
    """Compare a trace with the recorded program that trains a model of the scalar engine.

    A program has no array in between, so the logits, the losses and the gradients of the weights
    are compared. Raises UnsupportedOption without a program.
    """
    from nanochat.scalar.engine import ScalarEngine  # traces of the tensor engine do not need it

    assert isinstance(trained.engine, ScalarEngine)
    text, length = here.text, len(here.tokens)
    document = Batch(
        inputs=text.tokens[None], targets=text.targets[None], positions=np.arange(length)[None],
        segments=np.zeros((1, length), dtype=np.int64), lengths=np.array([length]),
        global_targets=length,
        by_counts=None if text.by_counts is None else text.by_counts[None],
    )  # fmt: skip
    there = trained.engine.numbers_of(document)
    gradients = {f"gradient of {name}": array for name, array in here.weight_gradients.items()}
    both = {**here, **gradients}
    return compared({name: both[name] for name in there if name in both}, there)


def _difference(name: str, here: Numbers, there: Numbers) -> Difference:
    if name not in here or name not in there or here[name].shape != there[name].shape:
        return Difference(name=name, largest=None, index=None, here=None, there=None)
    one, other = here[name], there[name]
    with np.errstate(invalid="ignore"):
        distance = np.where(one == other, 0.0, np.abs(one - other))
    place = np.unravel_index(int(distance.argmax()), distance.shape)
    largest = float(distance[place])
    index = tuple(map(int, place)) if largest else None
    return Difference(
        name=name, largest=largest, index=index, here=float(one[place]), there=float(other[place])
    )
