"""microgpt.py with the README's changed lines (nanochat.compile, our Adam) beside itself: the same
losses, and the median of forward + backward + step of each."""

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
    """Both sides in turn, each round in a process of its own; the unchanged script's first `steps`
    steps. A step begins behind the tokens and ends before the print."""
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
    print("microgpt.py and the same, recorded: median of forward + backward + step, best (median)")
    for side, us in medians.items():
        print(
            f"  {side:12} {min(us):12.1f} us ({statistics.median(us):.1f}), "
            f"{record['steps'][side]} steps, half of them of at most "
            f"{record['positions_of_the_median_document'][side]:g} positions"
        )
    print(f"  ratio {record['ratio_of_best_medians']:.0f} ({record['ratio_of_medians']:.0f})")
    assert difference <= 1e-12
    return record


def _median_positions(run: Reference) -> float:
    """Steps take the documents in turn, 16 positions at most."""
    used = [run.documents[step % len(run.documents)] for step in range(len(run.losses))]
    return statistics.median(min(16, len(text) + 1) for text in used)
