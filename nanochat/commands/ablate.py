"""`nanochat ablate`: a grid of training runs over seeds, resumable, with intervals.

Owns the grid, which runs are still to do, and doing them. The tables and the plot are report.py's.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nanochat.commands.train import train
from nanochat.config.options import ABLATIONS_DIR, AblateConfig, TrainConfig, closest, options_of
from nanochat.config.sources import read_config_file
from nanochat.errors import (
    AblationError,
    CheckpointError,
    ConfigError,
    NanochatError,
    OutputError,
    RunInterrupted,
)
from nanochat.output.ablation_report import Report, write_report
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.checkpoint import newest_checkpoint
from nanochat.runs.folder import RUN_FILES, RunFolder
from nanochat.system.durable import output_error

__all__ = ["AblationResult", "Cell", "ablate", "grid"]

FIRST_SEED = 1337
# Without --vary: does the head need its own matrix, and the embedding a norm?
DEFAULT_VARY = ("tie_lm_head=true,false", "input_rmsnorm=true,false")
_NOT_VARIED = ("seed", "out", "resume", "data_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of the grid."""

    name: str  # of its folder
    variant: Mapping[str, Any]
    config: TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationResult:
    """Where the tables lie and what they say, one record a run and one a variant."""

    folder: Path
    runs: Sequence[Mapping[str, Any]]
    variants: Sequence[Mapping[str, Any]]


def ablate(
    config: AblateConfig | None = None,
    base: Mapping[str, Any] | None = None,  # TrainConfig options shared by every run
    *,
    terminal: Terminal = SILENT,
) -> AblationResult:
    """Train every variant with every seed and compare their validation losses.

    Finished runs of an earlier call with the same options are kept, unfinished ones resumed.
    Raises ConfigError for a grid that cannot be built, before any run, and AblationError at the
    end if runs failed; the tables then hold the others.

    >>> import nanochat
    >>> result = nanochat.ablate(
    ...     nanochat.AblateConfig(vary=("tie_lm_head=true,false",), seeds=2),
    ...     {"model_kind": "bigram", "mode": "scalar", "steps": 2, "eval_tokens": 50},
    ... )
    >>> len(result.runs), len(result.variants)
    (4, 2)
    """
    config = config or AblateConfig()
    cells = grid(config, base or {})
    folder = _folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    failures = _run_all(cells, config.jobs, terminal)
    finished = [cell for cell in cells if (RunFolder(Path(str(cell.config.out))).result).exists()]
    rows = [_row(cell) for cell in finished]
    report = Report(list(cells[0].variant), rows)
    variants = write_report(report, folder)
    terminal.result(report.markdown())
    terminal.result(f"ablation: {folder}")
    terminal.json_result({"runs": rows, "variants": variants, "folder": folder})
    if failures:
        raise AblationError(
            f"{len(failures)} of {len(cells)} runs failed, the first: {failures[0]};"
            " the same command tries them again"
        )
    return AblationResult(folder=folder, runs=rows, variants=variants)


# -------------------------------------------------------------------------------------- the grid


def grid(config: AblateConfig, base: Mapping[str, Any]) -> list[Cell]:
    """Every variant with every seed, variants in the order written, seeds inside."""
    vary, options = config.vary, dict(base)
    if not vary:
        vary = DEFAULT_VARY
        options.setdefault("model_kind", "bigram")
    axes = [_axis(text) for text in vary]
    names = [name for name, _ in axes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"vary must name an option once, got {name} twice")
        if name in options:
            raise ConfigError(
                f"vary {name} must not be given as an option too, got {options[name]}"
            )
    for name in ("out", "resume"):
        if name in options:
            raise ConfigError(f"{name} must not be an option of the runs, got {options[name]}")
    first_seed = options_of(TrainConfig)["seed"].parse("seed", options.pop("seed", FIRST_SEED))
    cells = []
    for values in itertools.product(*(values for _, values in axes)):
        variant = dict(zip(names, values, strict=True))
        for seed in range(first_seed, first_seed + config.seeds):
            name = _cell_name(variant, seed)
            out = str(_folder(config) / name)
            chosen = {"num_samples": 0, **options, **variant, "seed": seed, "out": out}
            cells.append(Cell(name=name, variant=variant, config=TrainConfig(**chosen)))
    _refuse_twins(cells)
    if "mode" not in names and len({cell.config.mode for cell in cells}) > 1:
        # One engine and preset for all, or a variant would differ in more than what is varied.
        return grid(config, {**base, "mode": "tensor"})
    return cells


def _refuse_twins(cells: Sequence[Cell]) -> None:
    """No two runs may share a folder."""
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"vary must give each run a name of its own, got {name} twice")


def _folder(config: AblateConfig) -> Path:
    """`out`, or a folder that only ablations of the same options share."""
    names = (
        text.partition("=")[0].strip().replace("-", "_") for text in config.vary or DEFAULT_VARY
    )
    return Path(config.out) if config.out else Path(ABLATIONS_DIR, ",".join(names))


def _axis(text: str) -> tuple[str, list[Any]]:
    """`n_layer=1,2` as a name and checked values."""
    name, _, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    known = options_of(TrainConfig)
    if name not in known or name in _NOT_VARIED:
        allowed = [option for option in known if option not in _NOT_VARIED]
        raise ConfigError(f"vary must name a training option, got {name!r}{closest(name, allowed)}")
    values = [
        known[name].parse(name, value.strip()) for value in listed.split(",") if value.strip()
    ]
    if not values:
        raise ConfigError(f"vary {name} must list values, as in {name}=a,b, got {text!r}")
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"vary {name} must list each value once, got {value} twice")
    return name, values


def _cell_name(variant: Mapping[str, Any], seed: int) -> str:
    parts = [f"{name}={str(value).lower()}" for name, value in variant.items()]
    return re.sub(r"[^A-Za-z0-9_.,=+-]", "_", ",".join([*parts, f"seed={seed}"]))


# -------------------------------------------------------------------------------------- the runs


def _run_all(cells: Sequence[Cell], jobs: int, terminal: Terminal) -> list[str]:
    """Train what is not finished; one line a failed run."""
    todo = [cell for cell in cells if not _is_finished(cell)]
    if len(todo) < len(cells):
        terminal.note(f"{len(cells) - len(todo)} of {len(cells)} runs are there already")
    failures = []
    for done, (cell, failure) in enumerate(_outcomes(todo, jobs), start=1):
        terminal.note(
            f"run {done}/{len(todo)}  {cell.name}{f'  failed: {failure}' if failure else ''}"
        )
        if failure:
            failures.append(f"{cell.name}: {failure}")
    return failures


def _outcomes(cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, str | None]]:
    if jobs == 1:
        for cell in cells:
            yield cell, _train_cell(cell.config)
        return
    # Each process takes its share of the cores: more threads than cores only wait for each other.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_leave_signals_to_runs) as pool:
        waiting = list(reversed(cells))
        running: dict[Future[str | None], Cell] = {}
        while waiting or running:
            while waiting and len(running) < jobs:  # no more: an interrupt leaves the rest undone
                cell = waiting.pop()
                running[_submit(pool, cell.config, threads)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _outcome(future)


def _submit(pool: ProcessPoolExecutor, config: TrainConfig, threads: int) -> Future[str | None]:
    try:
        return pool.submit(_train_cell, config, threads)
    except BrokenProcessPool as error:  # an earlier run's process was killed
        future: Future[str | None] = Future()
        future.set_exception(error)
        return future


def _leave_signals_to_runs() -> None:
    """In a worker Ctrl-C saves a run that is training; all else is the first process's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(future: Future[str | None]) -> str | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return "its process was killed, perhaps for want of memory; lower jobs"


def _train_cell(config: TrainConfig, threads: int = 0) -> str | None:
    """Start or resume one run; the message if it failed."""
    options = config.to_dict()
    if threads and not config.threads:
        options["threads"] = threads
    folder = Path(str(config.out))
    try:
        if folder.exists():
            options["resume"] = _can_resume(RunFolder(folder))
            if not options["resume"]:
                _remove_unstarted(folder)
        resumed = {"out": options["out"], "resume": True, "num_samples": config.num_samples}
        train(TrainConfig(**resumed) if options["resume"] else TrainConfig(**options))
    except RunInterrupted:
        raise  # it ends the ablation, not only this run
    except NanochatError as error:
        return str(error)
    return None


def _remove_unstarted(folder: Path) -> None:
    """Clear the folder of a run that was cut off before its first checkpoint, and no other."""
    strangers = sorted({path.name for path in folder.iterdir()} - RUN_FILES)
    if strangers:
        raise OutputError(f"{folder} holds {strangers[0]}, which no run wrote; choose another out")
    shutil.rmtree(folder)


def _can_resume(folder: RunFolder) -> bool:
    if not folder.config.exists():
        return False
    try:
        newest_checkpoint(folder.checkpoints)
    except CheckpointError:
        return False
    return True


def _is_finished(cell: Cell) -> bool:
    """Whether the cell's folder holds its result; raises if it is of other options."""
    folder = RunFolder(Path(str(cell.config.out)))
    if not folder.config.exists():
        return False
    saved = read_config_file(str(folder.config), options_of(TrainConfig))
    resolved_later = {"device", "dtype", "batching", "resume", "threads"}
    for name, value in cell.config.to_dict().items():
        if name not in resolved_later and saved.get(name) != value:
            raise ConfigError(
                f"{folder.path} holds a run with {name} {saved.get(name)}, got {value};"
                " choose another out"
            )
    return folder.result.exists()


def _row(cell: Cell) -> dict[str, Any]:
    """The record of a finished run: variant, seed, then its metrics."""
    metrics = json.loads(RunFolder(Path(str(cell.config.out))).result.read_text(encoding="utf-8"))
    return {
        **cell.variant,
        "seed": cell.config.seed,
        **{k: v for k, v in metrics.items() if k not in cell.variant},
    }
