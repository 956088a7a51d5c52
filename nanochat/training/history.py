"""Parameter histories of a run: which parameters are recorded, at which steps, and how many.

Chosen parameters are kept at every step, and all parameters of a small model at some steps, in
float32. Both tables are bounded: one that is full keeps every second step. The engines gather the
numbers (RECORDED in engine.py), and runs/history.py stores them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import shown
from nanochat.config.record import Place
from nanochat.errors import ConfigError
from nanochat.model.parameters import GROUPS, Spec
from nanochat.system.wording import counted
from nanochat.training.engine import RECORDED

__all__ = ["MOST_NUMBERS", "History", "ParameterHistory", "Recorder", "Table"]

MOST_NUMBERS = 1 << 21  # of one table: steps · parameters · len(RECORDED)
STEPS_OF_ALL = 16  # of all parameters, at most: each one is a block, and makes the file larger
FEWEST_STEPS = 8  # a model that allows fewer has no table of all parameters
PER_MATRIX = 2  # parameters of a matrix that are chosen where the user chooses none
MOST_MATRICES = 32  # that they are chosen of


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ParameterHistory:
    """The history of one parameter: what each array holds at a step, numbered from 1."""

    place: Place
    steps: NDArray[np.int64]  # (steps,)
    weight: NDArray[np.float64]  # (steps,) before the update
    gradient: NDArray[np.float64]  # of the loss of the step, before clipping
    first_moment: NDArray[np.float64]  # after this gradient; SGD and Muon: the momentum
    second_moment: NDArray[np.float64]  # NaN if the optimizer has none for this parameter
    update: NDArray[np.float64]  # what the step added to the weight
    rate: NDArray[np.float64]  # learning rate

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {getattr(self, name).shape}" for name in (*RECORDED, "rate"))
        return f"ParameterHistory({self.place}, {_steps_text(self.steps)}: {arrays})"


@dataclass(frozen=True, slots=True, repr=False)
class Table:
    """What was kept of some parameters, by flat index over all matrices in their order."""

    indices: NDArray[np.int64]  # (parameters,)
    steps: NDArray[np.int64]  # (steps,) from 1, increasing
    rates: NDArray[np.float64]  # (steps, len(GROUPS)) learning rates
    numbers: NDArray[np.floating]  # (steps, parameters, len(RECORDED)); float32 of all parameters

    def each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Table:
        """Return the table with changed steps, rates and numbers."""
        return Table(self.indices, change(self.steps), change(self.rates), change(self.numbers))

    def __repr__(self) -> str:
        parameters = counted(len(self.indices), "parameter")
        return f"Table({parameters} at {_steps_text(self.steps)}, {self.numbers.dtype})"


@dataclass(frozen=True, slots=True, repr=False)
class History:
    """The parameter histories of a run.

    `places` are the chosen parameters. `parameter` returns the history of one of them, or of any
    parameter of a small model.
    """

    specs: Sequence[Spec]  # of the model, whose parameters the indices count
    chosen: Table
    every: Table | None  # all parameters; None: the model is too large
    run: str | None = None  # folder of the run, for the repr

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(_place_of(self.specs, int(index)) for index in self.chosen.indices)

    def __repr__(self) -> str:
        run = "" if self.run is None else f"{self.run}: "
        parts = [f"{counted(len(self.places), 'parameter')} at {_steps_text(self.chosen.steps)}"]
        if self.every is not None:
            parts.append(f"all {len(self.every.indices):,} at {_steps_text(self.every.steps)}")
        return f"History({run}{'; '.join(parts)})"

    def parameter(self, name: str, row: int, column: int) -> ParameterHistory:
        """Return the history of a parameter. Raises ConfigError for one that was not recorded."""
        place = Place(name, row, column)
        index = _index_of(self.specs, place)
        group = next(spec.group for spec in self.specs if spec.name == name)
        for table in (self.chosen, *([] if self.every is None else [self.every])):
            for at in np.flatnonzero(table.indices == index).tolist():
                numbers = table.numbers[:, at].astype(np.float64)
                return ParameterHistory(
                    place=place, steps=table.steps, rate=table.rates[:, GROUPS.index(group)],
                    **dict(zip(RECORDED, numbers.T, strict=True)),
                )  # fmt: skip
        known = ", ".join(map(str, self.places))
        raise ConfigError(f"{place} was not recorded; the run has {known}")


def _steps_text(steps: NDArray[np.int64]) -> str:
    between = f" from {steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else ""
    return counted(len(steps), "step") + between


def _index_of(specs: Sequence[Spec], place: Place) -> int:
    """Return the flat index of a parameter. Raises ConfigError if the model has no such one."""
    first = 0
    for spec in specs:
        rows, columns = spec.shape
        if spec.name != place.name:
            first += rows * columns
        elif not (0 <= place.row < rows and 0 <= place.column < columns):
            raise ConfigError(
                f"record must name parameters of the model, got {place}; {place.name} has"
                f" {rows} rows and {columns} columns"
            )
        else:
            return first + place.row * columns + place.column
    names = ", ".join(spec.name for spec in specs)
    raise ConfigError(
        f"record must name matrices of the model, which are {names}, got {shown(place.name)}"
    )


def _place_of(specs: Sequence[Spec], index: int) -> Place:
    """Return the parameter at a flat index."""
    for spec in specs:
        rows, columns = spec.shape
        if index < rows * columns:
            return Place(spec.name, index // columns, index % columns)
        index -= rows * columns
    raise IndexError(index)


def _some_of_each(specs: Sequence[Spec]) -> tuple[Place, ...]:
    """Return PER_MATRIX parameters of each matrix, or of some of many, spread over its rows and
    columns."""
    places = []
    for spec in specs[:: -(-len(specs) // MOST_MATRICES)]:
        for k in range(1, PER_MATRIX + 1):
            row, column = (length * k // (PER_MATRIX + 1) for length in spec.shape)
            places.append(Place(spec.name, row, column))
    return tuple(dict.fromkeys(places))  # a tiny matrix has fewer


class _Kept:
    """A table that grows to at most `most` steps; then it drops every second one."""

    def __init__(
        self,
        indices: NDArray[np.int64],
        dtype: type[np.floating],
        steps: int,  # that are expected
        most: int,
    ) -> None:
        self.indices, self.stride, self.count = indices, 1, 0
        per_step = len(indices) * len(RECORDED) + len(GROUPS) + 1
        self.most = min(most, MOST_NUMBERS // per_step)
        while steps > self.stride * self.most:
            self.stride *= 2
        # With room for more rows than `count`.
        self._rows = Table(
            indices,
            np.empty(0, dtype=np.int64),
            np.empty((0, len(GROUPS))),
            np.empty((0, len(indices), len(RECORDED)), dtype=dtype),
        )

    def is_due(self, step: int) -> bool:
        """Decide whether the table keeps a step, as far as is known."""
        return (step - 1) % self.stride == 0

    def add(self, step: int, rates: Sequence[float], numbers: NDArray[np.float64]) -> None:
        """Add the numbers of a step, (parameters, len(RECORDED)), if the step is due."""
        if not self.is_due(step):
            return
        if self.count == self.most:
            self._thin(2 * self.stride)
            if not self.is_due(step):
                return
        if self.count == len(self._rows.steps):
            self._make_room(min(self.most, 2 * self.count + 64))
        rows = self._rows
        rows.steps[self.count], rows.rates[self.count] = step, rates
        rows.numbers[self.count] = numbers
        self.count += 1

    def _make_room(self, count: int) -> None:
        def longer(array: NDArray[Any]) -> NDArray[Any]:
            result = np.empty((count, *array.shape[1:]), dtype=array.dtype)
            result[: self.count] = array[: self.count]
            return result

        self._rows = self._rows.each(longer)

    def _thin(self, stride: int) -> None:
        self.stride = stride
        table = self.table()
        due = (table.steps - 1) % stride == 0
        self._rows, self.count = table.each(lambda array: array[due]), int(due.sum())

    def load(self, table: Table, step: int) -> None:
        """Go on from a table of an earlier process, up to `step`."""
        distances = np.diff(table.steps)
        self.count, self._rows = int(np.searchsorted(table.steps, step, side="right")), table
        self._thin(max(self.stride, int(distances.min()) if len(distances) else 1))

    def table(self) -> Table:
        return self._rows.each(lambda array: array[: self.count].copy())


class Recorder:
    """Decides what an engine gathers in which step, and keeps it.

    Args:
        places: the parameters to keep at every step; none: some of each matrix.
        specs: the parameters of the model.
        steps: of the run, as far as they are known.

    Raises ConfigError for a place that the model does not have.
    """

    def __init__(self, places: Sequence[Place], specs: Sequence[Spec], steps: int) -> None:
        self._specs = specs
        wanted = tuple(places) or _some_of_each(specs)
        indices = np.array([_index_of(specs, place) for place in wanted], dtype=np.int64)
        self._chosen = _Kept(indices, np.float64, steps, MOST_NUMBERS)
        self._every: _Kept | None = None
        size = sum(spec.shape[0] * spec.shape[1] for spec in specs)
        if size * len(RECORDED) * FEWEST_STEPS <= MOST_NUMBERS:
            every = np.arange(size, dtype=np.int64)
            self._every = _Kept(every, np.float32, steps, STEPS_OF_ALL)

    def watched(self, step: int) -> NDArray[np.int64]:
        """Return the flat indices of the parameters to gather in a step, from 1."""
        if self._every is not None and self._every.is_due(step):
            return self._every.indices
        return self._chosen.indices

    def end_of_block(self, step: int) -> int:
        """Return the step before which a block that begins with `step` must end: all its steps
        gather the same parameters."""
        if self._every is None:
            return 1 << 62
        stride = self._every.stride
        return step + 1 if self._every.is_due(step) else step + stride - (step - 1) % stride

    def add(
        self,
        first: int,  # number of the first step, from 1
        rates: Sequence[Sequence[float]],  # of each step, by the order of GROUPS
        watched: NDArray[np.int64],  # as `watched` returned them
        recorded: NDArray[np.float64],  # (steps, watched parameters, len(RECORDED))
    ) -> None:
        """Keep what the steps of a block have gathered."""
        for step, (of_groups, numbers) in enumerate(zip(rates, recorded, strict=True), first):
            of_chosen = numbers
            if self._every is not None and watched is self._every.indices:
                self._every.add(step, of_groups, numbers)
                of_chosen = numbers[self._chosen.indices]
            self._chosen.add(step, of_groups, of_chosen)

    def load(self, history: History, step: int) -> None:
        """Go on from what an earlier process has recorded up to `step`."""
        self._chosen.load(history.chosen, step)
        if self._every is not None and history.every is not None:
            self._every.load(history.every, step)

    def fits(self, history: History) -> bool:
        """Return whether a history, of the same model, has the same chosen parameters."""
        return np.array_equal(history.chosen.indices, self._chosen.indices)

    def history(self) -> History:
        """Return what is kept so far."""
        every = self._every.table() if self._every is not None else None
        return History(self._specs, self._chosen.table(), every)
