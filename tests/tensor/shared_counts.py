"""Run by test_distributed in each of two processes: trains a mixture on the text of argv[1].

Prints one line of JSON: the last validation loss, and the counts in this process's mapped memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

import nanochat
from nanochat.commands import train as module
from nanochat.training.loop import LoopResult


def mapped_counts() -> list[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[-1] for line in maps if "ngram-" in line})


def train(corpus: str) -> dict[str, object]:
    seen: dict[str, object] = {}

    def run_training(run: Any) -> LoopResult:
        result = original(run)
        seen.update(mapped=mapped_counts(), loss=result.evaluation.loss)
        return result

    original, module._train = module._train, run_training
    config = nanochat.TrainConfig(
        mode="tensor", data=corpus, n_layer=1, n_head=1, n_embd=8, block_size=8, batch_size=4,
        steps=6, eval_every=3, dtype="float64", ngram_order=4, threads=1, num_samples=0, out="run",
    )  # fmt: skip
    nanochat.train(config)
    return seen


def main() -> None:
    print(json.dumps(train(sys.argv[1])))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
