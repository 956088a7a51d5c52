"""Steps of a traced microgpt on one thread and on two, in turn.

    python -m bench.scalar.threads [--rounds 15] [--threads 2]

times `forward`, `backward` and Adam over batches of the embedded names, at three widths and four
batch sizes, and writes medians and best rounds to bench/results/scalar/threads.json. The bits of both
sides are compared first. On a machine that does other work the second thread has no core of its
own: the load average stands beside the figures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import numpy as np

from bench.machine import write_result
from nanochat.config.options import TrainConfig
from nanochat.data.corpus import load_corpus
from nanochat.scalar.engine import ScalarEngine
from nanochat.scalar.replay import Replay

WIDTHS = (16, 32, 64)
BATCHES = (16, 32, 64, 128)
STEPS = 12  # a round; each a batch of its own
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def model(n_embd: int, dtype: str, threads: int, vocab: int) -> Any:
    """The program of a microgpt of that width."""
    config = TrainConfig(mode="scalar", preset="microgpt", n_embd=n_embd, threads=threads)
    engine = ScalarEngine(config, vocab, dtype=dtype)
    replay = Replay(
        engine.model, engine.tape, engine.matrices,
        numerics="fast", vocab_size=vocab, watch=False, threads=threads,
    )  # fmt: skip
    replay.reserve(config.block_size)
    return replay.core


def batches_of(texts: list[str], letters: list[str], size: int, stages: int) -> list[Batch]:
    """(lengths, tokens, scale) of STEPS batches."""
    made = []
    for step in range(STEPS):
        chosen = [texts[(step * size + i) % len(texts)] for i in range(size)]
        lengths = np.array([min(len(text) + 1, stages) for text in chosen], dtype=np.int32)
        tokens = np.zeros((size, 2 * stages), dtype=np.int32)
        for row, (text, n) in enumerate(zip(chosen, lengths, strict=True)):
            ids = [0, *(letters.index(c) + 1 for c in text), 0]
            tokens[row, 0 : 2 * n : 2], tokens[row, 1 : 2 * n : 2] = ids[:n], ids[1 : n + 1]
        made.append((lengths, tokens, 1 / lengths / size))
    return made


def train(core: Any, batches: list[Batch], lr: float) -> float:
    """Microseconds a step."""
    started = time.perf_counter()
    for lengths, tokens, scale in batches:
        core.forward(lengths, tokens, scale, None, None, False)
        core.adamw(0, core.values.size, lr, 0.85, 0.99, 1e-8, 0.0, 1)
    return (time.perf_counter() - started) / len(batches) * 1e6


def compare(
    n_embd: int, dtype: str, threads: int, rounds: int, texts: list[str]
) -> list[dict[str, Any]]:
    """One record a batch size."""
    letters = sorted(set("".join(texts)))
    sides = {count: model(n_embd, dtype, count, len(letters) + 1) for count in (1, threads)}
    records = []
    for size in BATCHES:
        batches = batches_of(texts, letters, size, sides[1].stages)
        for core in sides.values():
            train(core, batches, 0.001)
        if not np.array_equal(sides[1].values, sides[threads].values):
            raise SystemExit(f"{threads} threads have other bits than one at batch {size}")
        found: dict[int, list[float]] = {count: [] for count in sides}
        for _ in range(rounds):
            for count, core in sides.items():
                found[count].append(train(core, batches, 0.001))
        record: dict[str, Any] = {
            "n_embd": n_embd, "dtype": dtype, "batch": size, "shards": sides[1].shards,
        }  # fmt: skip
        for count, times in found.items():
            record[f"step_us_{count}_threads"] = {
                "median": statistics.median(times), "best": min(times),
            }  # fmt: skip
        ratio = statistics.median(found[1]) / statistics.median(found[threads])
        record["ratio_of_medians"] = ratio
        record["ratio_of_best"] = min(found[1]) / min(found[threads])
        print(
            f"{dtype} {n_embd:3} dims, batch {size:4}, {record['shards']} shards: "
            + ", ".join(
                f"{min(times):7.0f} us ({statistics.median(times):.0f}) on {count}"
                for count, times in found.items()
            )
            + f": {record['ratio_of_best']:.2f} ({ratio:.2f})",
            flush=True,
        )
        records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    texts = list(load_corpus("names").documents)
    load_before = os.getloadavg()
    records = [
        record
        for dtype in ("float32", "float64")
        for n_embd in WIDTHS
        for record in compare(n_embd, dtype, options.threads, options.rounds, texts)
    ]
    result = {"rounds": options.rounds, "load_average_before": load_before, "cases": records}
    print(write_result("scalar/threads", result))


if __name__ == "__main__":
    main()
