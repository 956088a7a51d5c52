"""`--preset auto` compared with every preset, on many kinds of text and several time budgets.

    python -m bench.choices.texts FOLDER [--budgets 10 60 300] [--seeds 3] [--texts NAME …]
                                         [--candidates NAME …] [--cores N …] [--report]

FOLDER is that of `python -m bench.choices.text_sources`. For each text, budget and seed, every
candidate trains in turn as a whole process, and `nanochat eval` scores the test part, which chose
nothing. Presets that the first seed leaves more than BEYOND bits per byte behind the best preset
get no further seeds. Each cell is added to results/choices/texts.json as soon as it is measured: an
interrupted run goes on where it stopped. A cell is measured again when the defaults of its preset
have changed. --cores runs one cell at a time on each of these processors, with one thread each;
otherwise a cell has the whole machine. --report only prints the tables.

A choice is good if its mean is within max(0.03 bits per byte, two standard errors of the paired
difference) of the best candidate on a text of 20 kB or more, and not significantly worse than any
candidate on a smaller one (paired t-test, p < 0.05).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from bench.choices.text_sources import TEXTS, Text, collect
from bench.command import command_parser, environment_without_root, nanochat_command
from bench.machine import read_result, write_result
from bench.race.statistics import p_below
from nanochat.config.options import TrainConfig, options_of
from nanochat.config.preset_choice import TextFacts, choices_for
from nanochat.config.presets import PRESETS
from nanochat.config.sources import read_config_file
from nanochat.data.dataset import read_text, text_facts

RECORD = "choices/texts"
AUTO = "auto"
COUNTING = "ngram"  # counts without a network, by the order that suits the text
CANDIDATES = (AUTO, *(name for name in PRESETS if name not in ("bigram", "microgpt", "gpt2-124m")))
TEXTS_AT: Mapping[int, Sequence[str]] = {  # budgets beyond 10 s are measured on fewer texts
    60: ("kjv", "fortunes-de", "quotations", "tang", "words-en", "man", "python", "policy"),
    300: ("kjv", "python"),
}
MARGIN = 0.03  # bits per byte
# Bits per byte, by the budget; the seeds of a preset differ less with more time.
BEYOND = {10: 0.3, 60: 0.1, 300: 0.1}
SMALL = 20_000  # bytes

CHOSEN = ("preset", "mode", "block_size", "tokenizer", "vocab_size", "dropout", "batch_size")

Cell = dict[str, Any]
Job = TypeVar("Job")


def digest(candidate: str, facts: Mapping[str, Any] | None = None) -> str:
    """Return what identifies the defaults of a candidate: for `auto`, what the rule chooses for
    the facts of a text."""
    used: Any = PRESETS.get(candidate)
    if used is None:
        choices = choices_for(TextFacts(**(facts or {})), "tensor")
        used = [
            [
                each.preset, dict(each.options), each.least_steps, PRESETS[each.preset],
                *([each.most_tokens] if each.most_tokens else []),
            ]
            for each in choices
        ]  # fmt: skip
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:12]


def facts_of(train: Path) -> dict[str, Any]:
    """Return what the rule reads of a text."""
    return asdict(text_facts(read_text(TrainConfig(data=str(train)))))


def measure(text: Text, folder: Path, budget: int, candidate: str, seed: int) -> Cell:
    train, test = collect(text, folder)
    cell: Cell = {
        "text": text.name, "budget_s": budget, "candidate": candidate, "seed": seed,
        "facts": facts_of(train), "bytes": train.stat().st_size,
        "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip
    cell["defaults"] = digest(candidate, cell["facts"])
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        began = time.perf_counter()
        try:
            run_nanochat(
                "train", train, "--quiet", f"--time-budget={budget}s", f"--preset={candidate}",
                f"--seed={seed}", f"--out={run}",
            )  # fmt: skip
        except SystemExit as stopped:
            if "time_budget must be at least" not in str(stopped):
                raise
            return cell | {"test_bpb": None}  # the preset does not fit into the budget
        clock_s = time.perf_counter() - began
        score = json.loads(run_nanochat("eval", run, "--json", "--data", test))
        result = json.loads((run / "result.json").read_text())
        saved = read_config_file(str(run / "config.toml"), options_of(TrainConfig))
        chosen = TrainConfig(**saved)  # with the options that have no effect
    return cell | {
        "clock_s": clock_s, "test_bpb": score["bpb"],
        "params": result["params"], "steps": result["steps"],
        "best_step": result["best_step"], "val_bpb": result["val_bpb"],
        "baseline_bpb": result.get("baseline_bpb"),
        **{name: getattr(chosen, name) for name in CHOSEN},
    }  # fmt: skip


def run_nanochat(*words: object) -> str:
    command = [nanochat_command(), *map(str, words)]
    done = subprocess.run(command, env=environment_without_root(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def work_on(
    jobs: Iterator[Job],
    measure: Callable[[Job], Cell],
    add: Callable[[Cell], None],
    cores: Sequence[int],  # empty: one job at a time on the whole machine
) -> None:
    """Measure the jobs, one at a time on each of the cores, and add each cell when it is done."""
    lock = threading.Lock()

    def work(core: int | None) -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})  # of this thread and the processes that it starts
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                return
            cell = measure(job)
            with lock:
                add(cell)

    with ThreadPoolExecutor(len(cores) or 1) as workers:
        list(workers.map(work, cores or [None]))


def missing(
    cells: Sequence[Cell],  # grows while this runs
    *,
    budgets: Sequence[int],
    seeds: int,
    names: Sequence[str],
    candidates: Sequence[str],
) -> Iterator[tuple[Text, int, str, int]]:
    """Yield the cells that are not measured yet. The candidates of one seed take turns."""
    for budget in budgets:
        texts = names or TEXTS_AT.get(budget, [text.name for text in TEXTS])
        for text in (text for text in TEXTS if text.name in texts):
            for seed in range(1, seeds + 1):
                for candidate in candidates:
                    found = [c for c in _current(cells) if is_cell(c, text.name, budget, seed)]
                    measured = {cell["candidate"] for cell in found}
                    if candidate not in measured and not (
                        seed > 1 and is_beyond(cells, text.name, budget, candidate)
                    ):
                        yield text, budget, candidate, seed


def is_cell(cell: Cell, text: str, budget: int, seed: int) -> bool:
    return (cell["text"], cell["budget_s"], cell["seed"]) == (text, budget, seed)


def is_beyond(cells: Iterable[Cell], text: str, budget: int, candidate: str) -> bool:
    """Return whether the first seed leaves a preset so far behind that more seeds say nothing."""
    if candidate == AUTO:
        return False
    first = [cell for cell in _current(cells) if is_cell(cell, text, budget, 1)]
    scores = {cell["candidate"]: _score(cell) for cell in first if cell["candidate"] != AUTO}
    beyond = BEYOND.get(budget, max(BEYOND.values()))
    return scores[candidate] > min(scores.values()) + beyond if candidate in scores else False


def _score(cell: Cell) -> float:
    return math.inf if cell["test_bpb"] is None else cell["test_bpb"]


def _current(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells whose defaults are today's."""
    return [
        cell for cell in cells if cell["defaults"] == digest(cell["candidate"], cell.get("facts"))
    ]


def verdict(scores: Mapping[str, Mapping[int, float]], size: int) -> dict[str, Any]:
    """Compare `auto` with the best of the other candidates by the seeds that both have.

    Args:
        scores: bits per byte of the test part, by candidate and seed.
        size: bytes of the training part.
    """
    means = {name: statistics.mean(by_seed.values()) for name, by_seed in scores.items()}
    best = min((name for name in means if name != AUTO), key=means.__getitem__)
    differences = [
        scores[AUTO][seed] - scores[best][seed]
        for seed in scores[AUTO].keys() & scores[best].keys()
    ]
    behind = statistics.mean(differences)
    error = math.inf
    p_worse = math.nan
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        p_worse = p_below([-each for each in differences], 0.0)
    is_good: bool | None = None  # one seed decides nothing
    if len(differences) > 1:
        is_good = behind <= max(MARGIN, 2 * error) if size >= SMALL else not p_worse < 0.05
    return {
        "best": best, "best_bpb": means[best], "auto_bpb": means[AUTO], "behind_bpb": behind,
        "standard_error": error, "p_worse": p_worse, "good": is_good,
    }  # fmt: skip


def report(cells: Sequence[Cell]) -> None:
    current = _current(cells)
    for budget in sorted({cell["budget_s"] for cell in current}):
        print(f"\n{budget} s: bits per byte of the test part, mean over seeds")
        candidates = [n for n in CANDIDATES if any(c["candidate"] == n for c in current)]
        print(f"{'text':12} {'bytes':>10} " + " ".join(f"{n:>7}" for n in candidates)
              + f" {'count':>7}  choice")  # fmt: skip
        good, against_counting = [], {}
        for text in TEXTS:
            of_text = [c for c in current if (c["text"], c["budget_s"]) == (text.name, budget)]
            scores: dict[str, dict[int, float]] = {}
            for cell in of_text:
                scores.setdefault(cell["candidate"], {})[cell["seed"]] = _score(cell)
            if AUTO not in scores or len(scores) < 2:
                continue
            if math.inf in scores[AUTO].values():
                print(f"{text.name:12} {of_text[0]['bytes']:>10,} needs more time than {budget} s")
                continue
            found = verdict(scores, of_text[0]["bytes"])
            if COUNTING in scores:
                of_seed = scores[COUNTING]
                against_counting[text.name] = statistics.mean(
                    score - of_seed[seed] for seed, score in scores[AUTO].items() if seed in of_seed
                )
            good += [] if found["good"] is None else [found["good"]]
            said = {True: "good", False: f"behind {found['best']}", None: "one seed"}
            counted = [x for c in of_text if (x := c.get("baseline_bpb")) is not None]
            row = [statistics.mean(scores[n].values()) if n in scores else None for n in candidates]
            row.append(statistics.mean(counted) if counted else None)
            print(f"{text.name:12} {of_text[0]['bytes']:>10,} "
                  + " ".join(f"{'–' if x is None or math.isinf(x) else f'{x:.3f}':>7}" for x in row)
                  + f"  {said[found['good']]}")  # fmt: skip
        if good:
            print(f"{sum(good)} of {len(good)} choices are good")
        if against_counting:
            print(compared_with_counting(against_counting))


def compared_with_counting(differences: Mapping[str, float]) -> str:
    """Return one sentence on the bits per byte that `auto` has more than counts alone, by text."""
    worst, mean = (
        max(differences, key=differences.__getitem__),
        statistics.mean(differences.values()),
    )
    return (
        f"{AUTO} less counting alone, of {len(differences)} texts: mean {mean:+.3f}, largest"
        f" {differences[worst]:+.3f} ({worst})"
    )


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budgets", type=int, nargs="+", default=[10, 60, 300])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--candidates", nargs="*", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--cores", type=int, nargs="*", default=[])
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    cells: list[Cell] = read_result(RECORD).get("cells", [])
    if not options.report:
        waiting = missing(
            cells, budgets=options.budgets, seeds=options.seeds, names=options.texts,
            candidates=options.candidates,
        )  # fmt: skip
        folder = options.folder.resolve()

        def add(cell: Cell) -> None:
            cells.append(cell)
            write_result(RECORD, {"cells": cells})
            shown = [cell[name] for name in ("text", "budget_s", "candidate", "seed")]
            print(*shown, f"{_score(cell):.4f}", flush=True)

        work_on(waiting, lambda job: measure(job[0], folder, *job[1:]), add, options.cores)
    report(cells)


if __name__ == "__main__":
    main()
