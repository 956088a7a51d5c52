"""The folder of a run: where it is, what lies in it, how it is opened and found again."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.config.options import CHECKPOINTS_DIR, RUNS_DIR
from nanochat.errors import OutputError
from nanochat.system.durable import output_error
from nanochat.system.json_text import strict_json

__all__ = ["RUN_FILES", "RunFolder", "refuse_used"]

CONFIG, ENVIRONMENT, METRICS, PLOT, RESULT = (
    "config.toml", "environment.json", "metrics.jsonl", "loss.svg", "result.json",
)  # fmt: skip


# Every name that a run writes at the top of its folder; the hidden ones only while it writes.
RUN_FILES = {CONFIG, ENVIRONMENT, METRICS, PLOT, RESULT, CHECKPOINTS_DIR}
RUN_FILES |= {f".{name}.tmp" for name in (CONFIG, ENVIRONMENT, RESULT)}


class RunFolder:
    """Paths inside one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.environment = path / ENVIRONMENT
        self.metrics = path / METRICS
        self.plot = path / PLOT
        self.result = path / RESULT
        self.checkpoints = path / CHECKPOINTS_DIR

    @classmethod
    def create(cls, out: str | None, name: str) -> RunFolder:
        """A new folder: `out`, which must not hold anything, or runs/<time>-<name>.

        Raises OutputError if it cannot be made or holds something.
        """
        if out is not None:
            path = Path(out)
            refuse_used(path)
        else:
            path = Path(RUNS_DIR) / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
        try:
            if out is not None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path = _make_unused(path)
            (path / CHECKPOINTS_DIR).mkdir(exist_ok=True)
        except OSError as error:
            raise output_error(path, error) from error
        return cls(path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """The full resolved config, as a file that `--config` takes; None has no TOML."""
        import tomli_w

        known = {key: value for key, value in config.items() if value is not None}
        self._write(self.config, tomli_w.dumps(known))

    def write_json(self, path: Path, record: Mapping[str, Any]) -> None:
        self._write(path, strict_json(record, indent=2) + "\n")

    def _write(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise output_error(path, error) from error


def refuse_used(path: Path) -> None:
    """Raise OutputError if `path` holds anything."""
    try:
        used = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise output_error(path, error) from error
    if not used:
        return
    if (path / CONFIG).exists():
        raise OutputError(
            f"out {path} already holds a run; add --resume to go on with it, or choose another out"
        )
    raise OutputError(f"out {path} must be a new or an empty folder; choose another out")


def _make_unused(path: Path) -> Path:
    """Make the folder, or path-2 … if runs start within the same second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unused, number = path, 2
    while True:
        try:
            unused.mkdir()
        except FileExistsError:
            unused, number = path.with_name(f"{path.name}-{number}"), number + 1
        else:
            return unused
