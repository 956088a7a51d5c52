"""What a run folder says about its run, without its weights.

Reads names, sizes and small text files, and never fails: a folder that is damaged or holds
something else is a summary that says so. Imports no NumPy, because `nanochat runs` must start at
once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.config.options import TrainConfig, options_of
from nanochat.config.sources import parse_toml
from nanochat.errors import ConfigError
from nanochat.runs.find import WEIGHTS, marked_step, step_folders
from nanochat.runs.folder import RUN_FILES, RunFolder
from nanochat.runs.lock import writer
from nanochat.system.plain_files import plain_file, read_plain
from nanochat.system.tensor_file import read_header
from nanochat.training.log_records import LogRecord, figure, log_records

__all__ = [
    "DAMAGED",
    "FINISHED",
    "FOREIGN",
    "INTERRUPTED",
    "RUNNING",
    "Evaluation",
    "RunSummary",
    "best_step",
    "folder_bytes",
    "logged",
    "step_evaluation",
    "summarize",
]

_MOST_WHOLE = 1 << 53  # of a number that a page shows

FINISHED, INTERRUPTED, RUNNING = "finished", "interrupted", "running"
DAMAGED, FOREIGN = "damaged", "not a run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One line of metrics.jsonl about the validation text."""

    step: int
    loss: float  # nats per token
    bpb: float | None  # bits per byte of raw text


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run. A field is None where the folder does not say it."""

    path: Path
    state: str
    problem: str = ""  # of a damaged folder
    config: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    params: int | None = None  # all weights, those of tables included
    steps: int | None = None
    best: Evaluation | None = None  # the lowest validation loss
    size_bytes: int = 0
    written_s: float = 0.0  # time of the last change, in seconds since 1970

    @property
    def name(self) -> str:
        return self.path.name or str(self.path)

    @property
    def table_entries(self) -> int | None:
        """Parameters that are looked up and never multiplied, as result.json has them."""
        return _whole(self.result.get("table_entries"))

    @property
    def count_entries(self) -> int | None:
        """Table entries of counted n-grams, as result.json has them; none is a parameter."""
        return _whole(self.result.get("count_entries"))

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `nanochat runs --json`. Its keys are part of the interface.

        A value is None where the folder does not say it. `data` holds the sources of the text, as
        the option does; `params` counts all weights; losses are nats per token; `written_s` is in
        seconds since 1970. `table_entries`, `count_entries` and `weights_bytes` are those of
        result.json.
        """
        best = self.best
        return {
            "name": self.name,
            "path": self.path,
            "state": self.state,
            "problem": self.problem or None,
            "data": list(self.config["data"]) if "data" in self.config else None,
            "model_kind": self.config.get("model_kind"),
            "preset": self.config.get("preset"),
            "mode": self.config.get("mode"),
            "params": self.params,
            "table_entries": self.table_entries,
            "count_entries": self.count_entries,
            "weights_bytes": _whole(self.result.get("weights_bytes")),
            "steps": self.steps,
            "best_step": best.step if best else None,
            "best_val_loss": best.loss if best else None,
            "best_val_bpb": best.bpb if best else None,
            "bytes": self.size_bytes,
            "written_s": self.written_s,
        }


def summarize(path: Path) -> RunSummary:
    """Return what the folder says about its run."""
    folder = RunFolder(path)
    steps = step_folders(path)
    size, written = folder_bytes(path), _written_s(folder, steps)
    try:
        names = set(os.listdir(path))
    except OSError as error:
        problem = f"cannot read it: {error.strerror or error}"
        return RunSummary(path=path, state=DAMAGED, problem=problem, written_s=written)
    if not steps and not names & {folder.config.name, folder.result.name, folder.metrics.name}:
        # A run that starts has a lock and an empty folder of checkpoints.
        state = RUNNING if names and names <= RUN_FILES and writer(path) else FOREIGN
        return RunSummary(path=path, state=state, size_bytes=size, written_s=written)
    config, problem = _read(folder.config, parse_toml)
    result, second = _read_result(folder) if folder.result.exists() else ({}, "")
    evaluations = [found for found in map(_evaluation, logged(folder.metrics, "eval")) if found]
    last = max((*steps, *(found.step for found in evaluations)), default=None)
    return RunSummary(
        path=path,
        state=_state(path, problem or second, result, last),
        problem=problem or second,
        config=_valid_options(config),
        result=result,
        params=_whole(result.get("params")) or _parameters(steps),
        steps=last if last is not None else _whole(result.get("steps")),
        best=min(evaluations, key=lambda found: found.loss, default=None),
        size_bytes=size,
        written_s=written,
    )


def _valid_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that this version knows, as their types; others are left out."""
    known, valid = options_of(TrainConfig), {}
    for name, value in config.items():
        if name in known:
            with suppress(ConfigError):
                valid[name] = known[name].parse(name, value)
    return valid


def _read_result(folder: RunFolder) -> tuple[dict[str, Any], str]:
    """Return what a run writes into result.json: single values and the samples, and what is wrong
    with the file. Others are left out."""
    result, problem = _read(folder.result, json.loads)
    valid = {
        name: value
        for name, value in result.items()
        if name == "samples" or not isinstance(value, (dict, list))
    }
    return valid, problem


def _state(path: Path, problem: str, result: Mapping[str, Any], last: int | None) -> str:
    if writer(path):
        return RUNNING
    if problem:
        return DAMAGED
    # A resume for more steps leaves the result of the first end until its own.
    steps = _whole(result.get("steps"))
    return FINISHED if steps is not None and (last is None or last <= steps) else INTERRUPTED


def best_step(path: Path, evaluations: Sequence[Evaluation] | None = None) -> int | None:
    """Return the step of a run's best checkpoint.

    It is the one that the run marks, or of the checkpoints on disk the one whose evaluation in
    metrics.jsonl has the lowest loss; None if there is none.
    """
    marked = marked_step(path)
    if marked is not None:
        return marked
    steps = step_folders(path)
    if evaluations is None:
        records = logged(RunFolder(path).metrics, "eval")
        evaluations = [found for found in map(_evaluation, records) if found]
    saved = [found for found in evaluations if found.step in steps]
    return min(saved, key=lambda found: found.loss).step if saved else None


def step_evaluation(run: Path, step: int) -> Evaluation | None:
    """Return the validation of a run's checkpoint, or None if the folder does not have it.

    The result of a finished run holds that of its best checkpoint, on all of the validation text;
    metrics.jsonl holds the others.
    """
    result, _ = _read_result(RunFolder(run))
    loss = figure(result.get("val_loss"))
    if loss is not None and result.get("best_step") == step:
        return Evaluation(step=step, loss=loss, bpb=figure(result.get("val_bpb")))
    records = map(_evaluation, logged(RunFolder(run).metrics, "eval"))
    found = [record for record in records if record is not None and record.step == step]
    return found[-1] if found else None


# ----------------------------------------------------------------------------------- small readers


def logged(metrics: Path, kind: str) -> Iterator[LogRecord]:
    """Yield the records of one kind in metrics.jsonl, none if it cannot be read."""
    with suppress(OSError):
        yield from log_records(metrics, kind)


def _evaluation(record: Mapping[str, Any]) -> Evaluation | None:
    loss = figure(record["val_loss"])
    if loss is None:
        return None
    return Evaluation(step=record["step"], loss=loss, bpb=figure(record.get("val_bpb")))


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < _MOST_WHOLE else None


def _read(file: Path, parse: Any) -> tuple[dict[str, Any], str]:
    """Return a file's record and what is wrong with it; the record is empty then."""
    try:
        record = parse(read_plain(file).decode())
    except FileNotFoundError:
        return {}, f"{file.name} is missing"
    except OSError as error:
        return {}, f"cannot read {file.name}: {error.strerror or error}"
    except (ValueError, RecursionError):
        return {}, f"{file.name} is damaged"
    return (record, "") if isinstance(record, dict) else ({}, f"{file.name} is damaged")


def _parameters(steps: Mapping[int, Path]) -> int | None:
    """Return the number of weights, from the header of the newest safetensors file."""
    for folder in reversed(list(steps.values())):
        try:
            with plain_file(folder / WEIGHTS) as file:
                arrays = read_header(file, os.fstat(file.fileno()).st_size)
            return _whole(sum(each.size for each in arrays.values()))
        except (OSError, ValueError):
            continue
    return None


def folder_bytes(path: Path) -> int:
    """Return the bytes of all files below a folder. Links are counted, never followed."""
    total = 0
    waiting = [os.fspath(path)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def _written_s(folder: RunFolder, steps: Mapping[int, Path]) -> float:
    """Return when the run last wrote; pruning, which changes its folders, does not count."""
    written = (folder.config, folder.metrics, folder.result, *steps.values())
    times = [time for time in map(_modified_s, written) if time is not None]
    return max(times, default=_modified_s(folder.path) or 0.0)


def _modified_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
