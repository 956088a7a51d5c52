"""Our side of each race of bench.scalar.microgpt: one function per case, each in its own process.

    python -m bench.scalar.microgpt_ours CASE --data PATH/TO/names.txt

Trains as the case's peers do and prints `train seconds S`, the time of the training loop alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench.command import command_parser
from bench.scalar.microgpt_limits import best_seconds, documents_of, lengths_of
from bench.scalar.microgpt_ports import STEPS
from nanochat import _scalar
from nanochat.config.options import TrainConfig
from nanochat.scalar.engine import ScalarEngine
from nanochat.scalar.replay import Replay


def make_core(vocab: int, n_embd: int, numerics: str, dtype: str) -> _scalar.Program:
    """Record the microgpt preset at its block size."""
    config = TrainConfig(mode="scalar", preset="microgpt", n_embd=n_embd, numerics=numerics)
    engine = ScalarEngine(config, vocab, dtype=dtype)
    replay = Replay(engine.model, engine.tape, engine.matrices, numerics=numerics, outputs=vocab)
    replay.reserve(config.block_size)
    return replay.core


def train(names: Path, steps: int, n_embd: int, batch: int, numerics: str, dtype: str) -> float:
    """Return the seconds of the training loop: forward, backward and Adam by replay."""
    documents = documents_of(names)
    letters = sorted(set("".join(documents)))
    core = make_core(len(letters) + 1, n_embd, numerics, dtype)
    batches = []
    for step, counts in enumerate(lengths_of(documents, steps, batch)):
        lengths = counts.astype(np.int32)
        tokens = np.zeros((batch, 2 * core.positions), dtype=np.int32)
        for row, n in enumerate(lengths):
            document = documents[(step * batch + row) % len(documents)]
            ids = [0, *(letters.index(c) + 1 for c in document), 0]
            tokens[row, 0 : 2 * n : 2], tokens[row, 1 : 2 * n : 2] = ids[:n], ids[1 : n + 1]
        batches.append((lengths, tokens, 1 / lengths / batch))
    size = core.values.size
    started = time.perf_counter()
    for step, (lengths, tokens, scale) in enumerate(batches):
        core.forward(lengths, tokens, scale)
        core.backward()
        core.adamw(0, size, 0.01 * (1 - step / steps), 0.85, 0.99, 1e-8, 0.0, step + 1)
    return time.perf_counter() - started


def measure_floor(names: Path, case: str, dtype: str) -> dict[str, float]:
    """Time the step of a document of one position at batch 1, and Adam.

    Such a step computes next to nothing. What remains is the cost of consecutive calls that wait
    for each other.
    """
    vocab = len(set("".join(documents_of(names)))) + 1
    core = make_core(vocab, 16, "exact" if case == "exact_replay" else "fast", dtype)
    lengths, scale = np.array([1], dtype=np.int32), np.ones(1)
    tokens = np.zeros((1, 2 * core.positions), dtype=np.int32)
    size = core.values.size

    def replay() -> None:
        core.forward(lengths, tokens, scale)
        core.backward()

    def adam() -> None:
        core.adamw(0, size, 0.0, 0.85, 0.99, 1e-8, 0.0, 1)

    replay_us, adam_us = (1e6 * best_seconds(run, 5000) for run in (replay, adam))
    # Each line of the listing is one call. Lines marked with a later position do not run.
    body = core.listing().partition("\nforward\n")[2]
    calls = sum(
        line.startswith("  ") and not re.search(r"@[1-9]", line) for line in body.splitlines()
    )
    return {
        "one_position_us": replay_us + adam_us,
        "replay_us": replay_us,
        "adam_us": adam_us,
        "calls": calls,
        "ns_per_call": 1e3 * replay_us / calls,
    }


def ours_exact_replay(names: Path, steps: int) -> float:
    """Train one document per step in float64, with the rounding of microgpt.py."""
    return train(names, steps, 16, 1, "exact", "float64")


def ours_fast_replay(names: Path, steps: int) -> float:
    """Train one document per step in float64, fused."""
    return train(names, steps, 16, 1, "fast", "float64")


def ours_fast_replay_float32(names: Path, steps: int) -> float:
    """Train one document per step in float32, fused."""
    return train(names, steps, 16, 1, "fast", "float32")


def ours_lanes(names: Path, steps: int, n_embd: int) -> float:
    """Train 16 documents per step in float32, in lanes."""
    return train(names, steps, n_embd, 16, "fast", "float32")


OURS: dict[str, Callable[[Path, int], float]] = {
    "exact_replay": ours_exact_replay,
    "fast_replay": ours_fast_replay,
    "fast_replay_float32": ours_fast_replay_float32,
    "lanes_16": partial(ours_lanes, n_embd=16),
    "lanes_32": partial(ours_lanes, n_embd=32),
    "lanes_64": partial(ours_lanes, n_embd=64),
}


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("case", choices=OURS)
    parser.add_argument("--data", type=Path, required=True, help="makemore's names.txt")
    options = parser.parse_args()
    print("train seconds", OURS[options.case](options.data, STEPS))


if __name__ == "__main__":
    main()
