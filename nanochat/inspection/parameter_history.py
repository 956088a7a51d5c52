"""Parameter histories as facts of the page: the steps that fit on it, of how many."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.inspection.facts import packed
from nanochat.model.parameters import GROUPS
from nanochat.system.wording import counted
from nanochat.training.engine import RECORDED
from nanochat.training.history import History, Table

__all__ = ["history_facts"]

FEWEST_STEPS = 4  # of all parameters; a page with room for fewer leaves them out
_OF_ALL = RECORDED[:2]  # what the page has of all parameters: weight and gradient
_SHARE_OF_CHOSEN = 1 / 4  # of the numbers of the page, at most


def history_facts(
    history: History,
    most: int,  # numbers of eight bytes that the page may hold
    used: int = 0,  # of them, by other views
) -> dict[str, Any]:
    """Return the chosen parameters, and as many steps of all parameters as there is room for.

    The last step of a chosen parameter is kept in any case. The notes of a table say what is left
    out.
    """
    first, matrices = 0, {}
    for spec in history.specs:
        rows, columns = spec.shape
        matrices[spec.name] = {
            "first": first, "rows": rows, "columns": columns, "group": spec.group,
        }  # fmt: skip
        first += rows * columns
    chosen = history.chosen
    per_step, room = len(chosen.indices) * len(RECORDED), most - used
    tables = [{
        "indices": chosen.indices.tolist(),
        **_table(chosen, RECORDED, min(room, int(_SHARE_OF_CHOSEN * most)) // per_step),
    }]  # fmt: skip
    if history.every is not None and (count := len(history.every.steps)):
        left = room - per_step * len(tables[0]["steps"])
        steps = 2 * left // (first * len(_OF_ALL))  # of numbers of four bytes
        if steps >= min(FEWEST_STEPS, count):
            tables.append(_table(history.every, _OF_ALL, steps))
            tables[1]["notes"].append(
                "Kept at some steps and rounded to float32. nanochat.load(run).history.parameter(…)"
                " also has the moments and updates."
            )
        else:
            tables[0]["notes"].append(
                f"The run also recorded all parameters at {counted(count, 'step')}, which are not"
                " shown; --max-numbers adds them."
            )
    return {
        "chosen": [place._asdict() for place in history.places],
        "matrices": matrices, "tables": tables,
    }  # fmt: skip


def _table(table: Table, parts: tuple[str, ...], most: int) -> dict[str, Any]:
    """Return some parts of a table, at its last step and at most `most` at equal distances."""
    count = len(table.steps)
    stride = -(-count // max(most, 1))
    kept = np.arange(count)[::-1][::stride][::-1]
    numbers: NDArray[np.floating] = table.numbers[kept]
    notes = []
    if len(kept) < count:
        notes.append(
            f"{len(kept):,} of {count:,} recorded steps are shown; --max-numbers adds more."
        )
    return {
        "steps": table.steps[kept].tolist(),
        "notes": notes,
        "rates": {group: table.rates[kept, i].tolist() for i, group in enumerate(GROUPS)},
        **{part: packed(numbers[:, :, RECORDED.index(part)]) for part in parts},
    }
