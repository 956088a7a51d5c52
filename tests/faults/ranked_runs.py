"""Run by test_world_sizes in each process of a group: the commands of argv[1], one after another.

argv[1]: a list of [words, stop]. Before the step `stop`, rank 0 gets a SIGTERM; null: none. Prints a
list of what each command had: exit code, stderr, and for each step the rows that this rank trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from nanochat.cli import main as command
from nanochat.system import processes
from nanochat.training import blocks

START = blocks.Blocks.start


def rows_of(batches: Sequence[Any]) -> list[str]:
    """Return a hash of each row, without padding."""
    found = []
    for batch in batches:
        for inputs, targets, length in zip(batch.inputs, batch.targets, batch.lengths, strict=True):
            row = inputs[:length].tobytes() + b"|" + targets[:length].tobytes()
            found.append(hashlib.sha256(row).hexdigest()[:16])
    return found


def run(words: Sequence[str], stop: int | None) -> dict[str, Any]:
    steps: dict[int, list[str]] = {}

    def noted(self: blocks.Blocks, step: int, **options: Any) -> blocks.Block:
        steps[step + 1] = rows_of(self._batcher.step(step))
        if step + 1 == stop and processes.rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return START(self, step, **options)

    blocks.Blocks.start = noted  # type: ignore[method-assign]  # notes the rows of each step
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = command(list(words))
    return {"code": code, "err": err.getvalue(), "steps": steps}


def main() -> None:
    found = [run(words, stop) for words, stop in json.loads(sys.argv[1])]
    print(json.dumps(found))
    if processes.world() > 1:
        import torch.distributed as dist

        dist.destroy_process_group()


if __name__ == "__main__":
    main()
