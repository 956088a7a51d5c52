"""One run of a race: its processes, their output with times, and the checkpoint.

Leaves out how each program is started on the same bytes (entrants.py).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from bench.race.data import RaceText

Lines = Sequence[tuple[float, str]]  # seconds since the start, line of the log
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=.*")


class Entrant(Protocol):
    """How one program is prepared and started, and how its output is read."""

    loss: ClassVar[re.Pattern[str]]  # finds a validation loss in its log
    loss_unit: ClassVar[float]  # nats per byte for a logged 1

    def commands(
        self, arguments: Sequence[str], seed: int, text: RaceText, out: Path
    ) -> list[list[str]]:
        """Return its commands, run in this order, for an empty folder `out`."""

    def folder(self, out: Path) -> Path:
        """Return the working folder of the commands."""

    def environment(self, out: Path) -> Mapping[str, str]: ...

    def steps_seconds(self, lines: Lines) -> float | None:
        """Return the seconds of its training steps alone, from its log."""

    def checkpoint(self, out: Path) -> Path: ...

    def score_command(self, checkpoint: Path, validation: Path) -> list[str]: ...


@dataclass(frozen=True)
class Side:
    """One row of the race: an entrant with its options and seeds."""

    name: str
    kind: str  # ours, nanogpt, nanochat, eemicrogpt
    entrant: Entrant | None  # None if no checkout was given
    arguments: tuple[str, ...]  # leading words NAME=VALUE are environment variables
    seeds: tuple[int, ...]

    def variables_and_options(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Split the arguments into environment variables and options."""
        count = 0
        while count < len(self.arguments) and _VARIABLE.fullmatch(self.arguments[count]):
            count += 1
        pairs = (word.split("=", 1) for word in self.arguments[:count])
        return dict(pairs), self.arguments[count:]


@dataclass
class Run:
    """One run, from the start of its first process to the end of its last one."""

    side: str
    seed: int
    status: str = "ok"  # ok, failed, timeout, skipped
    reason: str = ""
    seconds: float | None = None  # whole processes
    steps_seconds: float | None = None
    checkpoint: Path | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)  # seconds, loss in its log

    def fail(self, status: str, reason: str) -> Run:
        self.status, self.reason = status, reason[:400]
        return self

    def record(self) -> dict[str, object]:
        return {
            "side": self.side, "seed": self.seed, "status": self.status, "reason": self.reason,
            "seconds": self.seconds, "steps_seconds": self.steps_seconds,
            "curve": [list(point) for point in self.curve],
        }  # fmt: skip


def run(side: Side, seed: int, text: RaceText, folder: Path, timeout: float) -> Run:
    """Run the side to its end in an empty folder with empty caches."""
    done = Run(side.name, seed)
    entrant = side.entrant
    if entrant is None:
        return done.fail("skipped", f"no --{side.kind} was given")
    out = Path(tempfile.mkdtemp(dir=folder))
    variables, arguments = side.variables_and_options()
    commands = entrant.commands(arguments, seed, text, out)
    environment = {**entrant.environment(out), **variables}
    lines, status = _logged(commands, entrant.folder(out), environment, timeout)
    done.seconds = lines[-1][0]
    done.curve = [
        (second, float(found[1]) * entrant.loss_unit)
        for second, line in lines
        if (found := entrant.loss.search(line))
    ]
    done.steps_seconds = entrant.steps_seconds(lines)
    if status == "timeout":
        return done.fail(status, f"exceeded {timeout:g} s")
    if status != "0":
        last = next((line for _, line in reversed(lines) if line), "no output")
        return done.fail("failed", f"exit status {status}: {last}")
    checkpoint = entrant.checkpoint(out)
    if not checkpoint.exists():
        return done.fail("failed", f"left no {checkpoint.name}")
    done.checkpoint = checkpoint
    return done


def _logged(
    commands: Sequence[Sequence[str]], folder: Path, environment: Mapping[str, str], timeout: float
) -> tuple[list[tuple[float, str]], str]:
    """Return the lines with their seconds, an empty last one, and the exit status or `timeout`."""
    lines: list[tuple[float, str]] = []
    started = time.perf_counter()
    status = "0"
    for command in commands:
        with subprocess.Popen(
            command, cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, bufsize=1,
        ) as process:  # fmt: skip
            # A separate timer, because reading a line blocks.
            left = timeout - (time.perf_counter() - started)
            killer = threading.Timer(max(left, 0), process.kill)
            killer.start()
            assert process.stdout is not None
            lines.extend((time.perf_counter() - started, line.rstrip()) for line in process.stdout)
            status = str(process.wait())
            killer.cancel()
        if time.perf_counter() - started >= timeout:
            status = "timeout"
        if status != "0":
            break
    lines.append((time.perf_counter() - started, ""))
    return lines, status
