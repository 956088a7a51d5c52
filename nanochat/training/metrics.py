"""What a run measures and how it is written: losses, bytes, time, the metrics line, the log.

Owns units and formats. cadence.py decides when to evaluate, the loop on which batches.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import IGNORE
from nanochat.system.durable import output_error, sync_folder
from nanochat.system.plain_files import open_plain, plain_file

__all__ = [
    "METRIC_KEYS",
    "JsonlWriter",
    "LossTotals",
    "NullWriter",
    "RecentLosses",
    "Stopwatch",
    "format_metric",
    "metrics_line",
]

_BLOCK = 1 << 16  # bytes of the log that are searched at a time for the end of a line
_COMPACT = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

METRIC_KEYS = (
    "mode", "model_kind", "style", "backend", "device", "using_gpu", "tie_lm_head",
    "input_rmsnorm", "params", "steps", "final_loss", "val_loss", "val_bpb", "val_source",
    "mean_loss_last_50", "steps_per_sec", "tokens_per_sec", "vocab_size", "train_tokens", "seed",
    "best_step", "best_val_loss",
)  # fmt: skip


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """Return the line at the end of a run: exactly METRIC_KEYS, in that order, as key=value."""
    assert set(metrics) == set(METRIC_KEYS), set(metrics) ^ set(METRIC_KEYS)
    values = {key: format_metric(metrics[key]) for key in METRIC_KEYS}
    for value in values.values():
        assert not any(character.isspace() for character in value), value  # split at spaces
    return " ".join(f"{key}={value}" for key, value in values.items())


def format_metric(value: Any) -> str:
    """Return a value as the key=value lines show it; None is `none`, floats have six digits."""
    if value is None:
        return "none"
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    return str(value)


class LossTotals:
    """Nats, targets and bytes of raw text, summed over batches, and the two ratios of them."""

    def __init__(self, token_bytes: NDArray[np.int64]) -> None:  # (vocab,) raw bytes per token
        self._token_bytes = token_bytes
        self._nats = self._nats_with_bytes = 0.0
        self.targets = self.bytes = 0

    def add(
        self,
        nats: NDArray[np.float64],  # (rows, length) as Engine.token_losses returns them
        targets: NDArray[np.int64],  # (rows, length) token ids or IGNORE
    ) -> None:
        counted = targets != IGNORE
        nats, targets = nats[counted], targets[counted]
        sizes = self._token_bytes[targets]
        # math.fsum rounds once, so the order of the targets does not matter.
        self._nats += math.fsum(nats)
        self._nats_with_bytes += math.fsum(nats[sizes > 0])
        self.targets += len(targets)
        self.bytes += int(sizes.sum())

    @property
    def nats(self) -> float:
        """Nats of all targets, BOS included."""
        return self._nats

    @property
    def loss(self) -> float | None:
        """Nats per target, BOS included; None without targets."""
        return self._nats / self.targets if self.targets else None

    @property
    def bpb(self) -> float | None:
        """Bits per byte of raw text, BOS excluded; None without bytes."""
        return self._nats_with_bytes / (math.log(2) * self.bytes) if self.bytes else None


class RecentLosses:
    """The last `size` losses, including those from before a resume."""

    def __init__(self, size: int, values: Iterable[float] = ()) -> None:
        self._values: deque[float] = deque(values, maxlen=size)

    def extend(self, losses: Iterable[float]) -> None:
        self._values.extend(losses)

    @property
    def mean(self) -> float | None:
        return math.fsum(self._values) / len(self._values) if self._values else None

    @property
    def values(self) -> list[float]:
        """Oldest first, as a checkpoint keeps them."""
        return list(self._values)


class Stopwatch:
    """Seconds of training alone, summed over starts and stops, including those before a resume."""

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
    """`metrics.jsonl`: one compact, strict JSON object per line, appended and flushed.

    Every method raises OutputError if the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_named = False  # durably
        try:
            # Also for reading: to open a FIFO for writing alone waits for its reader.
            descriptor = open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            self._file = open(descriptor, "ab")  # noqa: SIM115  # open as long as the run
        except OSError as error:
            raise output_error(path, error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        try:
            line = _COMPACT.encode(record)
        except (ValueError, TypeError):  # nan, inf or a NumPy number
            line = _COMPACT.encode(_strict(record))
        self._append(line + "\n")

    def write_steps(
        self,
        first: int,  # number of the first step
        losses: Sequence[float],
        grad_norms: Sequence[float],
        rates: Sequence[Sequence[float]],  # of each step, by the order of GROUPS
        tokens: Sequence[int],  # trained on up to the end of each step
        elapsed_s: float,  # of training alone, when the last of them was read
    ) -> None:
        """Write the records of consecutive steps. All numbers are finite floats."""
        text = float.__repr__  # as in JSON
        end = f',"elapsed_s":{elapsed_s:.6f}}}\n'  # one text for all: a step may take microseconds
        lines = []
        for step, loss, grad_norm, (lr, matrix, head), trained in zip(
            range(first, first + len(losses)), losses, grad_norms, rates, tokens, strict=True
        ):
            rate = text(lr)
            matrix_rate = rate if matrix == lr else text(matrix)
            head_rate = rate if head == lr else text(head)
            lines.append(
                f'{{"kind":"step","step":{step},"loss":{text(loss)},"grad_norm":{text(grad_norm)},'
                f'"lr":{rate},"matrix_lr":{matrix_rate},"head_lr":{head_rate},"tokens":{trained}'
                f"{end}"
            )
        self._append("".join(lines))

    def _append(self, lines: str) -> None:
        try:
            self._file.write(lines.encode())
            self._file.flush()
        except OSError as error:
            raise output_error(self.path, error) from error

    @property
    def length(self) -> int:
        """Bytes so far."""
        try:
            self._file.flush()
            return os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise output_error(self.path, error) from error

    def sync(self) -> None:
        """Force all lines to disk, before a checkpoint records their length."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            if not self._is_named:
                sync_folder(self.path.parent)
                self._is_named = True
        except OSError as error:
            raise output_error(self.path, error) from error

    def truncate(self, length: int) -> str | None:
        """Drop the lines written after the checkpoint that the run resumes from.

        Returns what the file lacks, or None. It may have been edited or lost; the checkpoint does
        not need it.
        """
        present = self.length
        try:
            if present < length:
                os.ftruncate(self._file.fileno(), self._end_of_lines(present))
                return (
                    f"{self.path} has {present} of the {length} bytes that the checkpoint recorded;"
                    " the figures that it lacks stay lost, and the run goes on"
                )
            os.ftruncate(self._file.fileno(), length)
        except OSError as error:
            raise output_error(self.path, error) from error
        return None

    def _end_of_lines(self, present: int) -> int:
        """Return where the last whole line ends."""
        with plain_file(self.path) as file:
            for start in range(max(present - _BLOCK, 0), -1, -_BLOCK):
                file.seek(start)
                if (end := file.read(min(_BLOCK, present - start)).rfind(b"\n")) >= 0:
                    return start + end + 1
        return 0

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise output_error(self.path, error) from error


class NullWriter:
    """The log of a process that writes nothing: only rank 0 of several processes writes."""

    length = 0

    def write(self, record: Mapping[str, Any]) -> None:
        pass

    def write_steps(
        self,
        first: int,
        losses: Sequence[float],
        grad_norms: Sequence[float],
        rates: Sequence[Sequence[float]],
        tokens: Sequence[int],
        elapsed_s: float,
    ) -> None:
        pass

    def sync(self) -> None:
        pass

    def truncate(self, length: int) -> str | None:
        return None

    def close(self) -> None:
        pass


def _strict(value: Any) -> Any:
    """Replace nan and inf, which JSON lacks, by the strings nan, inf and -inf."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
