"""Where the larger preset of `--time-budget`'s ladders begins to win: both at the same budgets.

    python -m bench.choices.budget --long FILE --short FILE [--seeds 3] [--quick]

For each ladder, budget and seed, both presets train by the clock in turn, whole processes, on the
training part of FILE (its last tenth is put away for the race). Printed and written to
results/choices/budget.json: bits a byte on these runs' own validation part, steps, seconds. The larger
preset's steps at the first budget from which it stays ahead are what LADDERS should ask of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.choices.recipe import training_part
from bench.machine import write_result

NANOCHAT = [sys.executable, "-c", "from nanochat.cli import main; raise SystemExit(main())"]
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
    subprocess.run([*NANOCHAT, "train", "--quiet", *words], check=True, capture_output=True)
    clock_s = time.perf_counter() - began
    result = json.loads((folder / "result.json").read_text())
    return {
        "preset": preset, "budget_s": budget, "seed": seed, "clock_s": clock_s,
        "steps": result["steps"], "val_bpb": result["val_bpb"],
    }  # fmt: skip


def first_lead(runs: list[dict[str, Any]], larger: str, smaller: str) -> dict[str, Any] | None:
    """The larger preset's mean steps at the first budget from which its mean stays ahead."""

    def mean(preset: str, budget: int, name: str) -> float:
        return statistics.mean(
            run[name] for run in runs if run["preset"] == preset and run["budget_s"] == budget
        )

    found = None
    for budget in sorted({run["budget_s"] for run in runs}, reverse=True):
        lead = mean(smaller, budget, "val_bpb") - mean(larger, budget, "val_bpb")
        print(
            f"{budget:3} s: {larger} {mean(larger, budget, 'val_bpb'):.3f} bits a byte in"
            f" {mean(larger, budget, 'steps'):.0f} steps, {smaller}"
            f" {mean(smaller, budget, 'val_bpb'):.3f} in {mean(smaller, budget, 'steps'):.0f}"
        )
        if lead <= 0:
            break
        found = {"budget_s": budget, "steps": mean(larger, budget, "steps"), "lead_bpb": lead}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", type=Path, required=True)
    parser.add_argument("--short", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, the first budget")
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
            print(f"{ladder} documents, {larger} against {smaller}")
            record[ladder] = {"runs": runs, "first_lead": first_lead(runs, larger, smaller)}
            print(f"ahead from {record[ladder]['first_lead']}", flush=True)
    print(write_result("choices/budget", {"seeds": list(seeds), **record}))


if __name__ == "__main__":
    main()
