"""`nanochat runs`: list, show, compare, remove and prune the runs on disk.

Owns what each command prints and asks. Imports no NumPy: the list must start at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.config.keep import parse_keep
from nanochat.config.option import shown
from nanochat.config.options import (
    PRESETS,
    RunsCompareConfig,
    RunsConfig,
    RunsPruneConfig,
    RunsRemoveConfig,
    RunsShowConfig,
    TrainConfig,
    options_of,
    preset_defaults,
)
from nanochat.errors import CheckpointError, ConfigError, NanochatError, OutputError
from nanochat.output.run_tables import compare_text, list_text, show_text, size_text
from nanochat.output.table import escaped
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.counts_facts import counts_facts
from nanochat.runs.find import find_run, holds_run, run_names, step_folders
from nanochat.runs.prune import Pruned, prune_run, removable_run, remove_run
from nanochat.runs.summary import (
    FOREIGN,
    RunSummary,
    best_step,
    folder_bytes,
    logged,
    summarize,
)
from nanochat.system.plain_files import read_plain
from nanochat.system.streams import write_progress
from nanochat.training.log_records import figure

__all__ = [
    "compare_runs",
    "list_runs",
    "prune_runs",
    "remove_runs",
    "run_command",
    "show_run",
]

# Where a run was and how it ended; all that this machine resolved for `auto`.
_NOT_OPTIONS = {"out", "resume"}
_RESOLVED = {"mode", "preset", "device", "dtype", "batching"}


def run_command(command: str, options: Mapping[str, Any], *, terminal: Terminal) -> None:
    """Run `nanochat runs` or one of its subcommands."""
    if command == "runs show":
        show_run(RunsShowConfig(**options), terminal=terminal)
    elif command == "runs compare":
        compare_runs(RunsCompareConfig(**options), terminal=terminal)
    elif command == "runs remove":
        remove_runs(RunsRemoveConfig(**options), terminal=terminal)
    elif command == "runs prune":
        prune_runs(RunsPruneConfig(**options), terminal=terminal)
    else:
        list_runs(RunsConfig(**options), terminal=terminal)


# -------------------------------------------------------------------------------------------- list


def list_runs(config: RunsConfig | None = None, *, terminal: Terminal = SILENT) -> list[RunSummary]:
    """Return the summaries of the folders in a folder of runs, the newest first.

    Damaged folders and folders that hold no run are among them.
    """
    config = config or RunsConfig()
    folder = _runs_folder(config.dir)
    runs = [summarize(folder / name) for name in run_names(folder)]
    runs.sort(key=lambda run: (-run.written_s, run.name))
    if runs:
        terminal.result(list_text(runs))
    else:
        terminal.note(f"{folder} holds no runs; train one with `nanochat train`")
    terminal.json_result({"runs": [run.to_dict() for run in runs]})
    return runs


def _runs_folder(name: str) -> Path:
    """Return the folder of runs. The default folder may be absent; a named one may not."""
    if name != RunsConfig().dir and not os.path.isdir(name):
        raise ConfigError(f"dir must be a folder that holds runs, got {shown(name)}")
    return Path(name)


# -------------------------------------------------------------------------------------------- show


def show_run(
    config: RunsShowConfig | None = None, *, terminal: Terminal = SILENT
) -> dict[str, Any]:
    """Return a run's options that differ from its preset, its result and its checkpoints.

    Raises CheckpointError if there is no such run.
    """
    config = config or RunsShowConfig()
    run = _summary(config.run, config.dir)
    best = best_step(run.path)
    steps = step_folders(run.path)
    record = {
        **run.to_dict(),
        "options": _chosen_options(run),
        "result": dict(run.result),
        "initialized_from": _initialized_from(run.path),
        "counts": counts_facts(run.path),
        "checkpoints": [
            {
                "step": step,
                "path": folder,
                "bytes": folder_bytes(folder),
                "best": step == best,
                "last": step == max(steps),
            }
            for step, folder in steps.items()
        ],
        "samples": _samples(run),
    }
    terminal.result(show_text(run, record))
    terminal.json_result(record)
    return record


def _summary(name: str | None, runs_dir: str) -> RunSummary:
    """Return the summary of the run that a user names. Raises CheckpointError."""
    path = find_run(name, _runs_folder(runs_dir))
    if not holds_run(path):  # one checkpoint of a run
        path = path.absolute().parent.parent
    run = summarize(path)
    if run.state == FOREIGN:
        raise CheckpointError(f"{path} holds no run; `nanochat runs` lists the runs")
    return run


def _chosen_options(run: RunSummary) -> dict[str, Any]:
    """Return the options that differ from the defaults of the run's preset."""
    preset = run.config.get("preset")
    defaults = preset_defaults(preset if preset in PRESETS else "mini", run.config)
    return {
        name: value
        for name, value in run.config.items()
        if name not in _NOT_OPTIONS | _RESOLVED
        and (name not in defaults or value != defaults[name])
    }


def _initialized_from(path: Path) -> Any:
    """Return the record of the run that this one started from, or None."""
    import json

    try:
        record = json.loads(read_plain(path / "environment.json"))
        return record.get("initialized_from")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _samples(run: RunSummary) -> list[str]:
    """Return the samples that the run's result kept, if any."""
    samples = run.result.get("samples")
    return [str(text) for text in samples] if isinstance(samples, list) else []


# ----------------------------------------------------------------------------------------- compare


def compare_runs(config: RunsCompareConfig, *, terminal: Terminal = SILENT) -> dict[str, Any]:
    """Return the options in which runs differ and their results, and draw their curves.

    Raises CheckpointError if there is no such run, ConfigError for fewer than two.
    """
    if len(config.runs) < 2:
        raise ConfigError(
            f"runs compare needs two runs or more, got {len(config.runs)}; `nanochat runs` lists"
            " the runs"
        )
    runs = [_summary(name, config.dir) for name in config.runs]
    labels = _labels(runs)
    options = _differing(runs)
    picture = Path(config.out or Path(config.dir, "compare.svg"))
    same_tokens = len({_tokens_of(run) for run in runs}) == 1
    _draw(runs, labels, picture, same_tokens)
    results = [_result_figures(run) for run in runs]
    terminal.result(compare_text(labels, options, results))
    terminal.result(f"curves: {picture}")
    for note in _notes(runs, same_tokens):
        terminal.note(note)
    record = {
        "runs": [run.to_dict() for run in runs],
        "options": options,
        "results": results,
        "picture": picture,
    }
    terminal.json_result(record)
    return record


def _labels(runs: Sequence[RunSummary]) -> list[str]:
    names = [run.name for run in runs]
    return [n if names.count(n) == 1 else str(r.path) for n, r in zip(names, runs, strict=True)]


def _differing(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Return the values of the options that are not the same in all runs, in the table's order."""
    known = [*options_of(TrainConfig), *(name for run in runs for name in run.config)]
    values = {name: [run.config.get(name) for run in runs] for name in dict.fromkeys(known)}
    return {
        name: found
        for name, found in values.items()
        if name not in _NOT_OPTIONS and any(value != found[0] for value in found)
    }


def _result_figures(run: RunSummary) -> dict[str, Any]:
    best, result = run.best, run.result
    return {
        "state": run.state,
        "parameters": run.params,
        "steps taken": run.steps,
        "best step": best.step if best else None,
        "best validation loss": best.loss if best else None,
        "bits per byte": best.bpb if best else None,
        "tokens per second": result.get("tokens_per_sec"),
        "bytes on disk": run.size_bytes,
    }


def _tokens_of(run: RunSummary) -> tuple[Any, ...]:
    """Return what the loss of a token depends on: two kinds of tokens cannot be compared."""
    config, result = run.config, run.result
    return config.get("tokenizer"), result.get("vocab_size", config.get("vocab_size"))


def _draw(
    runs: Sequence[RunSummary], labels: Sequence[str], picture: Path, same_tokens: bool
) -> None:
    from nanochat.output.compared_curves import Curve, write_curves

    unit, key = "nats per token", "val_loss"
    if not same_tokens and all(run.best and run.best.bpb is not None for run in runs):
        unit, key = "bits per byte", "val_bpb"
    curves = [
        Curve(
            label,
            _points(run, "step", "loss") if key == "val_loss" else [],
            _points(run, "eval", key),
        )
        for run, label in zip(runs, labels, strict=True)
    ]
    write_curves(curves, picture, unit)


def _points(run: RunSummary, kind: str, key: str) -> list[tuple[float, float]]:
    """Return the finite figures of one kind of records, by step."""
    points = []
    for record in logged(run.path / "metrics.jsonl", kind):
        value = figure(record.get(key))
        if value is not None:
            points.append((float(record["step"]), value))
    return points


def _notes(runs: Sequence[RunSummary], same_tokens: bool) -> list[str]:
    notes = []
    if not same_tokens:
        notes.append("the runs have different tokens: compare bits per byte, not losses per token")
    splits = {run.result.get("split_sha256") for run in runs if run.result}
    if len(splits) > 1:
        notes.append("the runs validate on different texts, so their losses are not comparable")
    return notes


# -------------------------------------------------------------------------------- remove and prune


def remove_runs(config: RunsRemoveConfig, *, terminal: Terminal = SILENT) -> list[Path]:
    """Remove runs and return their folders. Nothing is removed if one of them is refused.

    Raises OutputError for what is not a run folder, a link, or a run that a process writes to.
    """
    if not config.runs:
        raise ConfigError("runs remove needs a run; `nanochat runs` lists the runs")
    folder = _runs_folder(config.dir)
    paths = list(dict.fromkeys(removable_run(name, folder) for name in config.runs))
    summaries = [summarize(path) for path in paths]
    for run in summaries:
        if run.state == "running":
            raise OutputError(f"{run.path} is being written; wait for the run or stop it first")
    if not config.yes and not _confirmed(summaries):
        terminal.note("nothing removed")
        paths = []
    freed = 0
    for path in paths:
        freed_here = remove_run(path)
        freed += freed_here
        terminal.result(f"removed {escaped(str(path))}, {size_text(freed_here)}")
    terminal.json_result({"removed": paths, "freed_bytes": freed})
    return paths


def _confirmed(runs: Sequence[RunSummary]) -> bool:
    """Ask whether to remove the runs. Raises ConfigError where nobody can answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError("runs remove asks on a terminal; add --yes to remove without asking")
    for run in runs:
        write_progress(f"  {escaped(run.name)}  {size_text(run.size_bytes)}  {run.state}")
    count = "this run" if len(runs) == 1 else f"these {len(runs)} runs"
    write_progress(f"Remove {count}? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def prune_runs(config: RunsPruneConfig, *, terminal: Terminal = SILENT) -> list[Pruned]:
    """Remove old checkpoints of runs, by default of all runs, and return what was done.

    A run that a process writes to is skipped if it was not named. Raises ConfigError,
    CheckpointError, OutputError.
    """
    keep = parse_keep(config.keep)
    folder = _runs_folder(config.dir)
    names = config.runs or tuple(
        n for n in run_names(folder) if step_folders(folder / n) and not (folder / n).is_symlink()
    )
    runs = list(dict.fromkeys(_run_to_prune(name, folder) for name in names))
    done = []
    for run in runs:
        try:
            pruned = prune_run(run, keep)
        except NanochatError as error:
            if config.runs:
                raise
            terminal.warn(f"skipped {run}: {error}")
            continue
        for problem in pruned.problems:
            terminal.warn(problem)
        terminal.result(_pruned_text(pruned))
        done.append(pruned)
    freed = sum(pruned.freed_bytes for pruned in done)
    if not runs:
        terminal.note(f"{folder} holds no checkpoints")
    elif len(runs) > 1:
        terminal.result(f"freed {size_text(freed)}")
    terminal.json_result(
        {
            "runs": [
                {"run": p.run, "removed": p.removed, "kept": p.kept, "freed_bytes": p.freed_bytes}
                for p in done
            ],
            "freed_bytes": freed,
        }
    )
    return done


def _run_to_prune(name: str, folder: Path) -> Path:
    path = folder / name if holds_run(folder / name) else find_run(name, folder)
    if path.is_symlink():
        raise OutputError(f"{shown(str(path))} is a link; name the folder that it points to")
    if not holds_run(path):
        raise OutputError(f"{shown(str(path))} is one checkpoint; name its run")
    return path


def _pruned_text(pruned: Pruned) -> str:
    name = escaped(str(pruned.run))
    total = len(pruned.removed) + len(pruned.kept)
    if not pruned.removed:
        return f"{name}: kept {'its checkpoint' if total == 1 else f'all {total} checkpoints'}"
    steps = "step" if len(pruned.removed) == 1 else "steps"
    return (
        f"{name}: removed {len(pruned.removed)} of {total} checkpoints ({steps}"
        f" {', '.join(map(str, pruned.removed))}), freed {size_text(pruned.freed_bytes)}"
    )
