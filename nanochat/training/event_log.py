"""The log of a run as TensorBoard events, written next to metrics.jsonl.

Owns the tags and the files. The package tensorboard encodes the events, and only a run with `--log
tensorboard` imports it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.errors import MissingDependency
from nanochat.system.durable import ensure_folder, output_error, sync_folder
from nanochat.training.log_records import log_records
from nanochat.training.metrics import JsonlWriter

__all__ = ["EventLog", "require_tensorboard"]

# Event files are read in the order of their names.
_NAME = "events.out.tfevents.{:06d}.nanochat"
_NAME_PATTERN = r"events\.out\.tfevents\.([0-9]{6,})\.nanochat"
_TAGS = {
    "step": {"train/loss": "loss", "train/learning_rate": "lr", "train/gradient_norm": "grad_norm"},
    "eval": {"validation/loss": "val_loss", "validation/bits_per_byte": "val_bpb"},
}
TOKENS_PER_S = "train/tokens_per_second"


def require_tensorboard() -> None:
    """Raise MissingDependency unless tensorboard is installed."""
    try:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingDependency(
            "log tensorboard needs the package tensorboard; pip install 'nanochat-lab[tensorboard]'"
        ) from error


class EventLog(JsonlWriter):
    """Writes each record to metrics.jsonl and its figures to an event file.

    A resumed run begins another event file. It tells TensorBoard to drop the events after the
    checkpoint, as metrics.jsonl drops them.
    """

    def __init__(
        self,
        path: Path,  # metrics.jsonl
        folder: Path,  # of the event files
        clock: Callable[[], float] = time.time,
    ) -> None:
        require_tensorboard()
        super().__init__(path)
        self._clock = clock
        try:
            self._open(folder)
        except BaseException:
            super().close()
            raise

    def _open(self, folder: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with _refusals(folder):
            ensure_folder(folder)
            known = (re.fullmatch(_NAME_PATTERN, entry) for entry in os.listdir(folder))
            number = max((int(found[1]) for found in known if found), default=0) + 1
            self._is_first = number == 1
            self._events_path = folder / _NAME.format(number)
            self._events = open(self._events_path, "xb")  # noqa: SIM115  # open as long as the run
            sync_folder(folder)
        self._records = RecordWriter(self._events)
        self._write_event(file_version="brain.Event:2")

    def write(self, record: Mapping[str, Any]) -> None:
        super().write(record)
        self._write_figures(record)
        if record["kind"] == "eval":  # a person may be looking
            self._flush()

    def write_steps(
        self,
        first: int,
        losses: Sequence[float],
        grad_norms: Sequence[float],
        rates: Sequence[Sequence[float]],
        tokens: Sequence[int],
        elapsed_s: float,
    ) -> None:
        super().write_steps(first, losses, grad_norms, rates, tokens, elapsed_s)
        figures = zip(losses, grad_norms, rates, strict=True)
        for step, (loss, grad_norm, (rate, *_)) in enumerate(figures, start=first):
            record = {"kind": "step", "step": step, "loss": loss, "grad_norm": grad_norm}
            self._write_figures({**record, "lr": rate})

    def sync(self) -> None:
        super().sync()
        with _refusals(self._events_path):
            self._events.flush()
            os.fsync(self._events.fileno())

    def truncate(self, length: int) -> str | None:
        """Drop what was written after the checkpoint that the run resumes from.

        A run that logs no events yet gets those of its metrics.jsonl.
        """
        lacking = super().truncate(length)
        with _refusals(self.path):
            records = list(log_records(self.path))
        if not self._is_first:
            from tensorboard.compat.proto.event_pb2 import SessionLog

            # Events from this step on are dropped; those of the step itself are written again.
            last = records[-1]["step"] if records else 0
            self._write_event(step=last, session_log=SessionLog(status=SessionLog.START))
            records = [record for record in records if record["step"] == last]
        for record in records:
            self._write_figures(record)
        return lacking

    def close(self) -> None:
        super().close()
        with _refusals(self._events_path):
            self._events.close()

    def _write_figures(self, record: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        figures = {tag: record.get(key) for tag, key in _TAGS.get(record["kind"], {}).items()}
        if record["kind"] == "eval":
            tokens, seconds = record.get("tokens"), record.get("elapsed_s")  # older logs lack them
            figures[TOKENS_PER_S] = tokens / seconds if tokens is not None and seconds else None
        values = [
            Summary.Value(tag=tag, simple_value=float(value))
            for tag, value in figures.items()
            if value is not None
        ]
        if values:
            self._write_event(step=record["step"], summary=Summary(value=values))

    def _write_event(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with _refusals(self._events_path):
            self._records.write(Event(wall_time=self._clock(), **fields).SerializeToString())

    def _flush(self) -> None:
        with _refusals(self._events_path):
            self._events.flush()


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error
