"""Two traces of one text side by side: the first array that differs, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nanochat.inspection.trace import Trace

__all__ = ["Comparison", "Difference", "compared"]


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


def compared(here: Trace, there: Trace) -> Comparison:
    """Compare every array of two traces."""
    names = [*here, *(name for name in there if name not in here)]
    return Comparison(differences=tuple(_difference(name, here, there) for name in names))


def _difference(name: str, here: Trace, there: Trace) -> Difference:
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
