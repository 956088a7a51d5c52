"""llama.cpp with the exported file, as a peer of bench.serve: the export, and its process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.command import module_command, module_environment

__all__ = ["Llama", "export"]


def export(run: Path, folder: Path) -> Path:
    """Export a run in float32 and return the file of llama.cpp."""
    done = subprocess.run(
        module_command("nanochat", "export", run, "--to=gguf", f"--out={folder}"),
        env=module_environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        sys.exit("error: the run could not be exported; train it with `-- --portable`")
    return folder / "model.gguf"


class Llama:
    """A process of bench.serve.llama_worker, which works only when it is asked."""

    def __init__(self, python: str, file: Path, tokens: int) -> None:
        self._process = subprocess.Popen(
            module_command("bench.serve.llama_worker", file, tokens, python=python),
            env=module_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.versions: dict[str, str] = self._answer()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def greedy(self, start: list[int]) -> list[int]:
        """Return the likeliest tokens of a text that begins so, of two windows at most."""
        found: list[int] = self._ask({"start": start})
        return found

    def rate(self, start: list[int], rows: int, repeats: int) -> dict[str, Any]:
        """Return the best `tokens_per_s` of some generations of `rows` texts, and the `setup`."""
        found: dict[str, Any] = self._ask({"start": start, "rows": rows, "repeats": repeats})
        return found

    def _ask(self, request: Any) -> Any:
        assert self._process.stdin is not None  # opened above
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # opened above
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("error: the process of llama.cpp ended without an answer")
        return json.loads(line)
