"""Our side of each race in bench/microgpt.py: one function a case, run as a process of its own.

    python bench/ours.py CASE --data PATH/TO/names.txt

trains as the case's peers do and prints `train seconds S`, the time of the training loop alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from peers import STEPS

from nanochat.config import TrainConfig
from nanochat.scalar.engine import ScalarEngine
from nanochat.scalar.replay import Replay


def train(names: Path, steps: int, n_embd: int, batch: int, numerics: str, dtype: str) -> float:
    """Seconds of the training loop: forward, backward and Adam by replay."""
    config = TrainConfig(mode="scalar", preset="microgpt", n_embd=n_embd, numerics=numerics)
    texts = names.read_text(encoding="utf-8").split()
    letters = sorted(set("".join(texts)))
    vocab = len(letters) + 1
    engine = ScalarEngine(config, vocab, np.ones(vocab, dtype=np.int64), dtype=dtype)
    replay = Replay(
        engine.model, engine.tape, engine.matrices, numerics=numerics, vocab_size=vocab, watch=False
    )
    replay.reserve(config.block_size)
    core, stages = replay.core, config.block_size
    batches = []
    for step in range(steps):
        chosen = [texts[(step * batch + i) % len(texts)] for i in range(batch)]
        lengths = np.array([min(len(t) + 1, stages) for t in chosen], dtype=np.int32)
        tokens = np.zeros((batch, 2 * stages), dtype=np.int32)
        for row, (text, n) in enumerate(zip(chosen, lengths, strict=True)):
            ids = [0, *(letters.index(c) + 1 for c in text), 0]
            tokens[row, 0 : 2 * n : 2], tokens[row, 1 : 2 * n : 2] = ids[:n], ids[1 : n + 1]
        batches.append((lengths, tokens, 1 / lengths / batch))
    size = core.values.size
    started = time.perf_counter()
    for step, (lengths, tokens, scale) in enumerate(batches):
        core.forward(lengths, tokens, scale)
        core.backward()
        core.adamw(0, size, 0.01 * (1 - step / steps), 0.85, 0.99, 1e-8, 0.0, step + 1)
    return time.perf_counter() - started


def ours_exact_replay(names: Path, steps: int) -> float:
    """Seconds of `steps` steps, one document each, in float64 with microgpt.py's own rounding."""
    return train(names, steps, 16, 1, "exact", "float64")


def ours_fast_replay(names: Path, steps: int) -> float:
    """Seconds of `steps` steps, one document each, in float64, fused."""
    return train(names, steps, 16, 1, "fast", "float64")


def ours_lanes(names: Path, steps: int, n_embd: int) -> float:
    """Seconds of `steps` steps of 16 documents each, in float32, in lanes."""
    return train(names, steps, n_embd, 16, "fast", "float32")


OURS: dict[str, Callable[[Path, int], float]] = {
    "exact_replay": ours_exact_replay,
    "fast_replay": ours_fast_replay,
    "lanes_16": partial(ours_lanes, n_embd=16),
    "lanes_32": partial(ours_lanes, n_embd=32),
    "lanes_64": partial(ours_lanes, n_embd=64),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=OURS)
    parser.add_argument("--data", type=Path, required=True, help="makemore's names.txt")
    options = parser.parse_args()
    print("train seconds", OURS[options.case](options.data, STEPS))


if __name__ == "__main__":
    main()
