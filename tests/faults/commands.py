"""Commands of nanochat in forked children, and what a run's folder must hold afterwards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "Commands", "Done", "final_state", "has_checkpoint", "hidden_files", "whole_checkpoints",
]  # fmt: skip

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int | None  # negative: the signal that killed it; None: it did not end in time
    out: str
    err: str
    peak_bytes: int
    seconds: float
    orphans: int = 0  # processes that it has left

    def complaint(self) -> str | None:
        """Return what is wrong with the way it ended, or None: success, or one line of error."""
        if self.code is None:
            return "it did not end"
        if self.orphans:
            return f"{self.orphans} processes are left"
        if "Traceback" in self.err:
            return f"a traceback: {self.err[-800:]}"
        if self.code == 0:
            return None
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if self.code not in (1, 2) or len(errors) != 1:
            return f"exit code {self.code}, errors {errors}, stderr {self.err[-300:]!r}"
        return None


class Commands:
    """Runs commands; start it once per module, for it imports the whole package.

    Args:
        prefix: Words before the server's command, which may put it into a namespace.
        imports: Without it, each command imports what it needs, and may use torch.
    """

    def __init__(
        self, build: Path, threads: int = 1, prefix: Sequence[str] = (), imports: bool = True
    ) -> None:
        library = build / "failing_calls.so"
        compiled = ["cc", "-shared", "-fPIC", "-O1", str(HERE / "failing_calls.c")]
        subprocess.run([*compiled, "-o", str(library), "-ldl"], check=True)
        self._server = subprocess.Popen(
            [*prefix, sys.executable, str(HERE / "command_server.py"), *["-"][imports:]],
            env={**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def shell(self, command: str) -> None:
        """Run a shell command where the commands run."""
        assert self._asked({"shell": command}) == 0, command

    def _asked(self, request: Mapping[str, Any]) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def run(self, *words: str, cwd: Path, **request: Any) -> Done:
        """Run one command in a folder.

        Args:
            request: `fault` for failing_calls.c (below, kinds, at, persists, error, log,
                action), `trace` (below, log), `memory`, `file_size` (limits in bytes) and
                `open_files`, `kill_after_s` and `signal`, `timeout_s`, `environment` (variables to
                add), `stdin` (a file).
        """
        return Done(**self._asked({"words": words, "cwd": str(cwd), **request}))

    def seen(self, path: Path) -> Path:
        """Return the path by which this process sees a file as the commands do, mounts included."""
        return Path(f"/proc/{self._server.pid}/root{path}")

    def address_space(self) -> int:
        """Return the bytes of addresses that a child has when it starts."""
        pages = int(Path(f"/proc/{self._server.pid}/statm").read_text().split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Of the trainer. The log has rates, whose digits vary in number.
TIMED = ("elapsed_s", "metrics_length")


def final_state(run: Path, step: int) -> Mapping[str, Any]:
    """Return all that a finished run has computed: two runs of equal bits have equal states."""
    checkpoint = run / "checkpoints" / f"step-{step:06d}"
    names = [p.name for p in checkpoint.iterdir() if p.suffix == ".safetensors"]
    state: dict[str, Any] = {name: _sha256(checkpoint / name) for name in sorted(names)}
    trainer = json.loads((checkpoint / "trainer.json").read_text())
    state["trainer"] = {key: value for key, value in trainer.items() if key not in TIMED}
    rows = (run / "metrics.jsonl").read_text().splitlines()
    state["metrics"] = [without_rates(json.loads(row)) for row in rows]
    state["result"] = without_rates(json.loads((run / "result.json").read_text()))
    return state


def without_rates(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row without what depends on the clock."""
    return {name: value for name, value in row.items() if not re.search(r"_per_sec$|_s$", name)}


def has_checkpoint(run: Path) -> bool:
    """Whether a run can be resumed."""
    names = [path.name for path in (run / "checkpoints").glob("*step-*")]
    return any(name.startswith(("step-", ".replaced-")) for name in names)


def whole_checkpoints(run: Path) -> tuple[list[str], list[str]]:
    """Return the names of the whole and of the other step folders, by their manifests' hashes."""
    whole, others = [], []
    for folder in sorted((run / "checkpoints").glob("step-*")):
        try:
            files = json.loads((folder / "manifest.json").read_text())["files"]
            is_whole = all(_sha256(folder / name) == file["sha256"] for name, file in files.items())
        except (OSError, ValueError, KeyError):
            is_whole = False
        (whole if is_whole else others).append(folder.name)
    return whole, others


def hidden_files(run: Path) -> list[str]:
    """Return what a save, a lock or a cut-off replacement has left behind."""
    return sorted(str(p.relative_to(run)) for p in run.rglob(".*"))
