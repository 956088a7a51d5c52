"""The budget from which the larger preset of a `--time-budget` ladder is better.

    python -m bench.choices.ladders --long FILE --short FILE [--seeds 3] [--quick]

For each ladder, budget and seed, both presets train under the same time budget in turn, as whole
processes, on the first nine tenths of FILE (the last tenth is reserved for the race). Prints and
writes to results/choices/ladders.json the bits per byte on the runs' own validation part, the steps
and the seconds. The larger preset should require, in LADDERS, the steps that it takes at the first
budget from which it stays ahead. --quick runs one seed at the first budget and writes nothing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.choices.recipe import training_part
from bench.command import command_parser, environment_without_root, nanochat_command
from bench.machine import write_result

LADDERS: dict[str, tuple[str, str, tuple[int, ...]]] = {  # larger, smaller, budgets in seconds
    "long": ("small", "nano", (6, 9, 13, 20, 30)),
    "short": ("mini", "pico", (4, 6, 9, 13)),
}
DOCUMENTS = {"long": "file", "short": "line"}


def train(
    text: Path, documents: str, preset: str, budget: int, seed: int, folder: Path
) -> dict[str, Any]:
    began = time.perf_counter()
    options = {
        "data": text, "documents": documents, "preset": preset, "seed": seed,
        "time-budget": f"{budget}s", "num-samples": 0, "out": folder,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [nanochat_command(), "train", "--quiet", *words], cwd=folder.parent,
        env=environment_without_root(), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{preset} within {budget} s failed:\n{done.stderr[-2000:]}")
    clock_s = time.perf_counter() - began
    result = json.loads((folder / "result.json").read_text())
    return {
        "preset": preset, "budget_s": budget, "seed": seed, "clock_s": clock_s,
        "steps": result["steps"], "val_bpb": result["val_bpb"],
    }  # fmt: skip


def first_lead(runs: list[dict[str, Any]], larger: str, smaller: str) -> dict[str, Any] | None:
    """Return the larger preset's mean steps at the first budget from which it stays ahead."""

    def mean(preset: str, budget: int, name: str) -> float:
        return statistics.mean(
            run[name] for run in runs if run["preset"] == preset and run["budget_s"] == budget
        )

    found = None
    for budget in sorted({run["budget_s"] for run in runs}, reverse=True):
        lead = mean(smaller, budget, "val_bpb") - mean(larger, budget, "val_bpb")
        print(
            f"{budget:3} s: {larger} {mean(larger, budget, 'val_bpb'):.3f} bits per byte in"
            f" {mean(larger, budget, 'steps'):.0f} steps, {smaller}"
            f" {mean(smaller, budget, 'val_bpb'):.3f} in {mean(smaller, budget, 'steps'):.0f}"
        )
        if lead <= 0:
            break
        found = {"budget_s": budget, "steps": mean(larger, budget, "steps"), "lead_bpb": lead}
    return found


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--long", type=Path, required=True, help="one long document")
    parser.add_argument("--short", type=Path, required=True, help="one document per line")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, one budget; writes nothing")
    options = parser.parse_args()
    seeds = range(1, 2 if options.quick else options.seeds + 1)
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for ladder, (larger, smaller, budgets) in LADDERS.items():
            folder = Path(name) / ladder
            folder.mkdir()
            text = training_part(getattr(options, ladder), folder)
            runs = [
                train(
                    text,
                    DOCUMENTS[ladder],
                    preset,
                    budget,
                    seed,
                    folder / f"{preset}-{budget}-{seed}",
                )
                for budget in (budgets[:1] if options.quick else budgets)
                for seed in seeds
                for preset in (larger, smaller)
            ]
            print(f"{ladder} documents, {larger} compared with {smaller}")
            record[ladder] = {"runs": runs, "first_lead": first_lead(runs, larger, smaller)}
            print(f"ahead from {record[ladder]['first_lead']}", flush=True)
    if not options.quick:
        print(write_result("choices/ladders", {"seeds": list(seeds), **record}))


if __name__ == "__main__":
    main()
