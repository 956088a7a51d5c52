"""What a run measures and how it is written: sums, recent losses, time, the last line, the log.

Owns units and formats. When to evaluate is cadence.py's, which batches the loop's.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from nanochat.errors import OutputError
from nanochat.system.durable import output_error
from nanochat.training.engine import LossSums

__all__ = [
    "METRIC_KEYS",
    "JsonlWriter",
    "LossTotals",
    "RecentLosses",
    "Stopwatch",
    "metrics_line",
]

_COMPACT = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

METRIC_KEYS = (
    "mode", "model_kind", "style", "backend", "device", "using_gpu", "tie_lm_head",
    "input_rmsnorm", "params", "steps", "final_loss", "val_loss", "val_bpb", "val_source",
    "mean_loss_last_50", "steps_per_sec", "tokens_per_sec", "vocab_size", "train_tokens", "seed",
)  # fmt: skip


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """The line at the end of a run: exactly METRIC_KEYS, in that order, as key=value."""
    assert set(metrics) == set(METRIC_KEYS), set(metrics) ^ set(METRIC_KEYS)
    return " ".join(f"{key}={_spelled(metrics[key])}" for key in METRIC_KEYS)


def _spelled(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    text = str(value)
    assert not any(character.isspace() for character in text), text  # the line is split at spaces
    return text


class LossTotals:
    """LossSums of many batches, and the two figures made of them."""

    def __init__(self) -> None:
        self.sums = LossSums(0.0, 0, 0.0, 0)

    def add(self, sums: LossSums) -> None:
        so_far = self.sums
        self.sums = LossSums(
            so_far.nats + sums.nats,
            so_far.targets + sums.targets,
            so_far.byte_nats + sums.byte_nats,
            so_far.bytes + sums.bytes,
        )

    @property
    def loss(self) -> float | None:
        """Nats per target, BOS counted; None without targets."""
        return self.sums.nats / self.sums.targets if self.sums.targets else None

    @property
    def bpb(self) -> float | None:
        """Bits per byte of raw text, BOS not counted; None without bytes."""
        bytes_ = self.sums.bytes
        return self.sums.byte_nats / (math.log(2) * bytes_) if bytes_ else None


class RecentLosses:
    """The last `size` losses, across a resume too."""

    def __init__(self, size: int, values: Iterable[float] = ()) -> None:
        self._values: deque[float] = deque(values, maxlen=size)

    def add(self, loss: float) -> None:
        self._values.append(loss)

    @property
    def mean(self) -> float | None:
        return math.fsum(self._values) / len(self._values) if self._values else None

    @property
    def values(self) -> list[float]:
        """Oldest first, as a checkpoint keeps them."""
        return list(self._values)


class Stopwatch:
    """Seconds of training alone, summed over its starts and stops and from before a resume."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, *, elapsed_s: float = 0.0
    ) -> None:
        self._clock = clock
        self._elapsed_s = elapsed_s
        self._started: float | None = None

    def start(self) -> None:
        assert self._started is None
        self._started = self._clock()

    def stop(self) -> None:
        assert self._started is not None
        self._elapsed_s += self._clock() - self._started
        self._started = None

    @property
    def elapsed_s(self) -> float:
        running = 0.0 if self._started is None else self._clock() - self._started
        return self._elapsed_s + running

    def __enter__(self) -> Stopwatch:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class JsonlWriter:
    """`metrics.jsonl`: one compact, strict JSON object a line, appended and flushed.

    Every method raises OutputError if the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "ab")  # noqa: SIM115  # open as long as the run
        except OSError as error:
            raise output_error(path, error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        try:
            line = _COMPACT.encode(record)
        except (ValueError, TypeError):  # nan, inf or a number of NumPy's
            line = _COMPACT.encode(_strict(record))
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise output_error(self.path, error) from error

    @property
    def length(self) -> int:
        """Bytes so far, forced to disk: a checkpoint that names them must not outlive them."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise output_error(self.path, error) from error

    def truncate(self, length: int) -> None:
        """Drop what was written after the checkpoint that a run resumes from."""
        present = self.length
        if present < length:
            raise OutputError(
                f"{self.path} has {present} bytes, the checkpoint was saved at {length};"
                " put the whole file back or start a new run"
            )
        try:
            os.ftruncate(self._file.fileno(), length)
        except OSError as error:
            raise output_error(self.path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise output_error(self.path, error) from error


def _strict(value: Any) -> Any:
    """JSON has no numbers for nan and inf: they become the texts nan, inf and -inf."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
