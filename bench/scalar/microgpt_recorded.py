"""microgpt.py compared with its recorded form: equal losses, and the median time of a step.

The recorded form has the changed lines of docs/microgpt.md: nanochat.compile and our Adam.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bench.scalar.microgpt_reference import (
    RECORDED_PARTS,
    Reference,
    in_fresh_process,
    recorded,
    run_reference,
)

STEPS = 1000  # of the recorded script: the whole run


def compare_recorded(source: str, names: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Run both sides in turn, one process per round: all steps recorded, `steps` unchanged.

    A step starts after the tokens are encoded and ends before the print.
    """
    theirs: list[Reference] = []
    ours: list[Reference] = []
    for _ in range(rounds):
        theirs.append(in_fresh_process(run_reference, source, names, steps))
        ours.append(
            in_fresh_process(
                run_reference, recorded(source), names, STEPS, 42, False, RECORDED_PARTS
            )
        )
    pairs = list(zip(ours[0].losses, theirs[0].losses, strict=False))
    difference = max(abs(a - b) / abs(b) for a, b in pairs)
    sides = {"microgpt.py": theirs, "recorded": ours}
    medians = {
        side: [1e6 * statistics.median(run.clock.step_seconds()) for run in runs]
        for side, runs in sides.items()
    }
    record: dict[str, Any] = {
        "steps": {side: len(runs[0].losses) for side, runs in sides.items()},
        "rounds": rounds,
        "positions_of_the_median_document": {
            side: _median_positions(runs[0]) for side, runs in sides.items()
        },
        "largest_relative_difference_of_losses": difference,
        "median_step_us": medians,
        "ratio_of_best_medians": min(medians["microgpt.py"]) / min(medians["recorded"]),
        "ratio_of_medians": statistics.median(medians["microgpt.py"])
        / statistics.median(medians["recorded"]),
    }
    print("microgpt.py and its recorded form: median step, forward to update, best (median)")
    for side, us in medians.items():
        print(
            f"  {side:12} {min(us):12.1f} us ({statistics.median(us):.1f}), "
            f"{record['steps'][side]} steps, half of them with at most "
            f"{record['positions_of_the_median_document'][side]:g} positions"
        )
    print(f"  ratio {record['ratio_of_best_medians']:.0f} ({record['ratio_of_medians']:.0f})")
    assert difference <= 1e-12
    return record


def _median_positions(run: Reference) -> float:
    """Return the median positions of the documents in turn, at most 16 each."""
    used = [run.documents[step % len(run.documents)] for step in range(len(run.losses))]
    return statistics.median(min(16, len(text) + 1) for text in used)
