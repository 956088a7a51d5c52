"""microgpt.py compared with itself when `from nanochat import Value` replaces its `class Value`.

    python -m bench.scalar.drop_in --reference PATH/TO/microgpt.py --data PATH/TO/names.txt [--full]

Nothing else in the script changes, except num_steps (without --full). Both versions run in turn as
separate processes, and must print the same text. Both run again with instrumented loops: losses
and trained weights must be bit-identical, and each part of a step is timed. Writes
results/scalar/drop_in.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.command import command_parser
from bench.machine import write_result
from bench.scalar.microgpt_reference import (
    Reference,
    compare_parts,
    in_fresh_process,
    run_reference,
    run_script,
    variant,
)

SIDES = {"microgpt.py": False, "with nanochat.Value": True}


def compare_processes(source: str, names: Path, steps: int | None, rounds: int) -> dict[str, Any]:
    """Return the seconds of whole processes. Their outputs must be equal."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        printed = {}
        for side, ours in SIDES.items():
            took, printed[side] = run_script(variant(source, ours=ours, steps=steps), names)
            seconds[side].append(took)
        assert len(set(printed.values())) == 1, "the two sides print different text"
    lines = next(iter(printed.values())).count("\n")
    theirs, ours_seconds = seconds.values()
    ratio = min(theirs) / min(ours_seconds)
    print(f"{lines} lines of output, the same on both sides")
    print(f"whole process: {min(theirs):.2f} s / {min(ours_seconds):.3f} s = {ratio:.1f}")
    return {"same_lines_of_output": lines, "seconds": seconds, "ratio_whole": ratio}


def same_bits(a: Reference, b: Reference) -> bool:
    return a.losses == b.losses and all(
        np.array_equal(matrix, b.final_weights[name]) for name, matrix in a.final_weights.items()
    )


def compare_steps(source: str, names: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Return the mean milliseconds of each part of a step; best and median of the rounds."""
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        seen = []
        for side, ours in SIDES.items():
            seen.append(in_fresh_process(run_reference, source, names, steps, 42, ours))
            runs[side].append(seen[-1].clock.milliseconds())
        assert same_bits(*seen), "losses or weights differ"
    print(f"{steps} losses and the final weights are bit-identical; per step, best (median):")
    return {"steps": steps, "rounds": rounds, **compare_parts(runs)}


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--reference", type=Path, required=True, help="microgpt.py, the final gist")
    parser.add_argument("--data", type=Path, required=True, help="its input.txt: names.txt")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="run the processes for all steps")
    options = parser.parse_args()
    source, names = options.reference.read_text(encoding="utf-8"), options.data.resolve()
    steps = None if options.full else options.steps
    record = {
        "parts": compare_steps(source, names, options.steps, options.rounds),
        "steps_of_the_processes": steps or "all",
        "processes": compare_processes(source, names, steps, 1 if options.full else options.rounds),
    }
    print(write_result("scalar/drop_in", record))


if __name__ == "__main__":
    main()
