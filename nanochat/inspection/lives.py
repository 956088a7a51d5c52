"""The life of parameters over training, as facts of the page: no more than fit on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.inspection.facts import packed
from nanochat.model.parameters import GROUPS
from nanochat.training.engine import RECORDED
from nanochat.training.history import History, Table

__all__ = ["history_facts"]

FEWEST_STEPS = 4  # of all parameters; a page with room for fewer leaves them out
_OF_ALL = RECORDED[:2]  # what the page has of all parameters: weight and gradient
_MOST_OF_CHOSEN = 100_000  # numbers


def history_facts(
    history: History,
    room: int,  # numbers of eight bytes that the page may still hold
) -> dict[str, Any]:
    """Return the chosen parameters, and of all parameters as many steps as there is room for. The
    last step of a chosen parameter is there in any case."""
    first, matrices = 0, {}
    for spec in history.specs:
        rows, columns = spec.shape
        matrices[spec.name] = {
            "first": first, "rows": rows, "columns": columns, "group": spec.group,
        }  # fmt: skip
        first += rows * columns
    chosen = history.chosen
    per_step = len(chosen.indices) * len(RECORDED)
    tables = [{
        "indices": chosen.indices.tolist(),
        **_table(chosen, RECORDED, min(room, _MOST_OF_CHOSEN) // per_step),
    }]  # fmt: skip
    if history.every is not None and len(history.every.steps):
        left = room - per_step * len(tables[0]["steps"])
        steps = 2 * left // (first * len(_OF_ALL))  # of numbers of four bytes
        if steps >= min(FEWEST_STEPS, len(history.every.steps)):
            tables.append(_table(history.every, _OF_ALL, steps))
    return {
        "chosen": [place._asdict() for place in history.places],
        "matrices": matrices, "tables": tables,
    }  # fmt: skip


def _table(table: Table, parts: tuple[str, ...], most: int) -> dict[str, Any]:
    """Return some parts of a table, at the last step and at most `most` at equal distances."""
    count = len(table.steps)
    stride = -(-count // max(most, 1))
    kept = np.arange(count)[::-1][::stride][::-1]
    numbers: NDArray[np.floating] = table.numbers[kept]
    return {
        "steps": table.steps[kept].tolist(),
        "rates": {group: table.rates[kept, i].tolist() for i, group in enumerate(GROUPS)},
        **{part: packed(numbers[:, :, RECORDED.index(part)]) for part in parts},
    }
