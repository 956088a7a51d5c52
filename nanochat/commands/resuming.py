"""Which run `train --resume` means, and what the user may want when it cannot go on."""

from __future__ import annotations

import os
from pathlib import Path

from nanochat.config.options import RUNS_DIR, TrainConfig
from nanochat.data.registry import REGISTRY
from nanochat.data.sources.folder import is_run_folder
from nanochat.errors import CheckpointError, ConfigError
from nanochat.runs.checkpoint import newest_run
from nanochat.runs.find import holds_run, is_checkpoint
from nanochat.system.wording import as_word, printable

__all__ = ["run_to_resume", "to_train_longer"]


def run_to_resume(requested: TrainConfig) -> Path:
    """Return the folder in `out`, or that of the newest run.

    Raises ConfigError for a run that is named in another way, CheckpointError if there is none.
    """
    for text in requested.data if "data" in requested.given else ():
        if not _is_text(text) and (run := _run_named(text)) is not None:
            raise ConfigError(
                f"--resume continues the run in --out, got the run as the text: {printable(text)};"
                f" use --resume --out {as_word(str(run))}"
            )
    if requested.out is None:
        return newest_run(Path(RUNS_DIR))
    given, run = Path(requested.out), _run_named(requested.out)
    if run is not None and run != given:
        kind = "its checkpoint" if is_checkpoint(given) else "its name"
        raise ConfigError(
            f"out must be the folder of the run to resume, got {kind} {printable(given)}; use"
            f" --resume --out {as_word(str(run))}"
        )
    if not os.path.isdir(given):
        raise CheckpointError(
            f"no run to resume at {printable(given)}; leave --resume out to start one"
        )
    return given


def _run_named(name: str) -> Path | None:
    """Return the run of a path or of a name in runs/."""
    return _run_at(Path(name)) or _run_at(Path(RUNS_DIR, name))


def _run_at(path: Path) -> Path | None:
    """Return the run in a folder, or that of a checkpoint."""
    if holds_run(path):
        return path
    return path.parent.parent if is_checkpoint(path) else None


def _is_text(name: str) -> bool:
    """Whether a name is that of a text: a folder of texts may have a config.toml."""
    if name in REGISTRY or not os.path.exists(name):
        return name in REGISTRY
    return not is_run_folder(name) and not is_checkpoint(Path(name))


def to_train_longer(config: TrainConfig, run: Path) -> str:
    """Return the way to more steps than those of a config."""
    if config.lr_schedule == "constant":  # otherwise the rate ends with the steps
        return f"to train longer, give --steps above {config.steps}"
    if config.model_kind == "mini-gpt":
        return f"to train longer, use --init-from {as_word(str(run))}"
    return "to train longer, start a new run"
