"""Run by test_distributed in each of two processes: one training run per scenario of argv[1].

A scenario is the step before which this rank is asked to stop, or null. Prints one line of JSON:
the message or the number of steps of each run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

import nanochat
from nanochat.commands import train as module
from nanochat.errors import RunInterrupted


def train(corpus: str, out: str, stop_at: int | None) -> str:
    @contextmanager
    def stop_requested() -> Iterator[Callable[[], bool]]:
        calls = iter(range(1 << 30))
        yield lambda: stop_at is not None and next(calls) >= stop_at

    module.stop_requested = stop_requested
    config = nanochat.TrainConfig(
        mode="tensor", data=corpus, documents="line", model_kind="bigram", n_embd=4,
        block_size=8, batch_size=2, steps=12, eval_every=4, checkpoint_every=0, threads=1,
        num_samples=1, max_new_tokens=4, out=out,
    )  # fmt: skip
    try:
        return f"finished {nanochat.train(config).metrics['steps']} steps"
    except RunInterrupted as error:
        return str(error)


def main() -> None:
    corpus, scenarios = sys.argv[1], json.loads(sys.argv[2])
    messages = [train(corpus, f"run-{i}", stop_at) for i, stop_at in enumerate(scenarios)]
    print(json.dumps(messages))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
