"""What dropout, weight decay, weight averaging and the number of readings change on small texts.

    python -m bench.choices.regularization FOLDER [--texts NAME …] [--seeds 3] [--cores N …]

FOLDER is that of `python -m bench.choices.text_sources`. On each text, `nanochat train` trains what
`--preset auto` chooses for it, and the same with one change: no dropout, no weight decay, an
average of the weights (`--ema`), half or twice the steps. The runs of a seed differ in nothing
else, and end by steps, so the load of the machine does not matter. `nanochat eval` scores the best
checkpoint on the test part, which chose nothing. Each run is added to
results/choices/regularization.json when it is done: an interrupted bench goes on where it stopped.
The table has the mean of variant − chosen over the seeds, and half of its 95 % interval (Student's
t): above zero, the variant is worse.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.choices.text_sources import TEXTS, collect
from bench.choices.texts import run_nanochat, work_on
from bench.command import command_parser
from bench.machine import read_result, write_result
from bench.race.statistics import paired_difference
from nanochat.commands.preset_choice import with_chosen_preset
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import read_text

RECORD = "choices/regularization"
ON = ("quotations", "chat", "tang", "airports")
CHOSEN = "chosen"
VARIANTS: Mapping[str, Callable[[TrainConfig], Mapping[str, object]]] = {
    CHOSEN: lambda chosen: {},
    "no dropout": lambda chosen: {"dropout": 0},
    "no weight decay": lambda chosen: {"weight_decay": 0},
    "ema 0.98": lambda chosen: {"ema": 0.98},
    "half the steps": lambda chosen: {"steps": chosen.steps // 2},
    "twice the steps": lambda chosen: {"steps": chosen.steps * 2},
}

Job = tuple[str, int, str]  # text, seed, variant
Cell = dict[str, Any]


def measure(folder: Path, job: Job) -> Cell:
    name, seed, variant = job
    text = next(text for text in TEXTS if text.name == name)
    train, test = collect(text, folder)
    chosen, choice = choice_of(train)
    changes = VARIANTS[variant](chosen)
    with tempfile.TemporaryDirectory() as out:
        run = Path(out) / "run"
        run_nanochat(
            "train", train, "--quiet", "--mode=tensor", "--no-baseline", "--num-samples=0",
            f"--seed={seed}", f"--out={run}",
            *(f"--{option.replace('_', '-')}={value}" for option, value in changes.items()),
        )  # fmt: skip
        score = json.loads(run_nanochat("eval", run, "--json", "--data", test))
        result = json.loads((run / "result.json").read_text())
    return {
        "text": name, "seed": seed, "variant": variant, "choice": choice,
        "test_bpb": score["bpb"], "val_bpb": result["val_bpb"], "steps": result["steps"],
        "best_step": result["best_step"],
    }  # fmt: skip


def choice_of(train: Path) -> tuple[TrainConfig, str]:
    """Return the config that a text gets, and the choice in words."""
    config = TrainConfig(data=str(train), mode="tensor")
    chosen, words = with_chosen_preset(config, read_text(config))
    return chosen, f"{words}, {chosen.steps} steps"


def missing(
    cells: Sequence[Cell],  # grows while this runs
    choices: Mapping[str, str],  # by text
    seeds: int,
) -> Iterator[Job]:
    """Yield what is not measured yet with today's choices. The variants of a seed take turns."""
    for seed in range(1, seeds + 1):
        for name, choice in choices.items():
            for variant in VARIANTS:
                wanted = (name, seed, variant, choice)
                keys = ("text", "seed", "variant", "choice")
                if not any(tuple(cell[key] for key in keys) == wanted for cell in cells):
                    yield name, seed, variant


def report(cells: Sequence[Cell]) -> None:
    changed = [variant for variant in VARIANTS if variant != CHOSEN]
    print(f"{'text':12} {CHOSEN:>8}  " + "  ".join(f"{name:>17}" for name in changed))
    for name in dict.fromkeys(cell["text"] for cell in cells):
        by_variant: dict[str, dict[int, float]] = {}
        for cell in cells:
            if cell["text"] == name:
                by_variant.setdefault(cell["variant"], {})[cell["seed"]] = cell["test_bpb"]
        chosen = by_variant.get(CHOSEN, {})
        if not chosen:
            continue
        row = [f"{name:12} {sum(chosen.values()) / len(chosen):8.3f}"]
        for variant in changed:
            scores = by_variant.get(variant, {})
            seeds = sorted(scores.keys() & chosen.keys())
            if not seeds:
                row.append(f"{'–':>17}")
                continue
            mean, half = paired_difference(
                [scores[seed] for seed in seeds], [chosen[seed] for seed in seeds]
            )
            row.append(f"{mean:+8.3f} ± {half:.3f}".rjust(17))
        print("  ".join(row))


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", nargs="*", default=list(ON))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="*", default=[])
    options = parser.parse_args()
    folder = options.folder.resolve()
    trains = {text.name: collect(text, folder)[0] for text in TEXTS if text.name in options.texts}
    choices = {name: choice_of(train)[1] for name, train in trains.items()}
    cells: list[Cell] = [
        cell for cell in read_result(RECORD).get("cells", [])
        if choices.get(cell["text"], cell["choice"]) == cell["choice"]
    ]  # fmt: skip

    def add(cell: Cell) -> None:
        cells.append(cell)
        write_result(RECORD, {"unit": "bits per byte", "cells": cells})
        print(cell["text"], cell["seed"], cell["variant"], f"{cell['test_bpb']:.4f}", flush=True)

    work_on(
        missing(cells, choices, options.seeds), lambda job: measure(folder, job), add, options.cores
    )
    report(cells)


if __name__ == "__main__":
    main()
