"""`nanochat info`: the facts that a bug report needs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.config.option import config_or_default
from nanochat.config.options import CHECKPOINTS_DIR, RUNS_DIR, InfoConfig
from nanochat.errors import CheckpointError
from nanochat.output.run_tables import counts_lines
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.counts_facts import counts_facts
from nanochat.runs.find import find_run, holds_run
from nanochat.system.cache import cache_folder
from nanochat.system.environment import describe_environment
from nanochat.system.wording import counted, printable

__all__ = ["info"]


def info(
    config: InfoConfig | Mapping[str, Any] | None = None, *, terminal: Terminal = SILENT
) -> dict[str, Any]:
    """Return versions, machine, native modules and engines of this installation.

    With a `run`, read and verify all of its checkpoints and counts, and include what was found. It
    may also be a checkpoint that was copied out of its run.
    Raises CheckpointError if there is no such run, or if a part of it is damaged.
    """
    config = config_or_default(config, InfoConfig)
    path = None if config.run is None else _run_folder(config.run)
    cache = cache_folder()
    record = {
        **describe_environment(0),
        "native_modules": {"nanochat._scalar": _scalar_state()},
        "engines": {"scalar": True, "tensor": importlib.util.find_spec("torch") is not None},
        "gpu": _gpu(),
        "cache": None if cache is None else str(cache),
    }
    for key, value in record.items():
        terminal.result(f"{key}: {_in_words(value)}")
    if path is None:
        terminal.json_result(record)
        return record
    from nanochat.runs.summary import summarize
    from nanochat.runs.verify import verdicts  # imports NumPy

    record["run"], record["counts"] = str(path), counts_facts(path)
    terminal.result(f"run: {path}")
    for line in counts_lines(record["counts"]) or ["counts: none"]:
        terminal.result(line)
    record["model_file"] = summarize(path).config.get("model_file") if holds_run(path) else None
    if record["model_file"] is not None:
        terminal.result(f"model file: {printable(record['model_file'])}, code that was not run")
    parts = verdicts(path)
    record["parts"] = [{"path": str(part.path), "problem": part.problem} for part in parts]
    for part in parts:
        terminal.result(f"{part.path}: {part.problem or 'verified'}")
    terminal.json_result(record)
    damaged = [part for part in parts if part.problem]
    if damaged:
        raise CheckpointError(
            f"{path} has {counted(len(damaged), 'damaged part')}: {damaged[0].problem}"
        )
    return record


def _run_folder(name: str) -> Path:
    """Return the run that a name or one of its checkpoints means, or a checkpoint without a run."""
    path = find_run(name, Path(RUNS_DIR))
    if holds_run(path) or path.absolute().parent.name != CHECKPOINTS_DIR:
        return path
    return path.absolute().parent.parent


def _scalar_state() -> str:
    try:
        module = importlib.import_module("nanochat._scalar")
    except ImportError as error:
        return f"not loaded: {error}"
    return f"loaded from {module.__file__}"


def _gpu() -> str | None:
    """Return the GPU's name from the NVIDIA driver's tool; importing torch would take seconds."""
    import shutil
    import subprocess

    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi failed: {error}"
    return done.stdout.strip().replace("\n", "; ") or None


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
