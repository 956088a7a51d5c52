"""Steps of a recorded microgpt on one thread and on two, in turn.

    python -m bench.scalar.threads [--rounds 15] [--threads 2]

Times `forward`, `backward` and Adam over batches of the embedded names, at three hidden sizes and
four batch sizes, and writes the medians and the best rounds to results/scalar/threads.json. Before
the timing, the weights of both sides must be bit-identical. On a busy machine the second thread
shares its core with other processes, so the record has the load average.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import numpy as np

from bench.command import command_parser
from bench.machine import write_result
from nanochat.config.options import TrainConfig
from nanochat.data.corpus import load_corpus
from nanochat.scalar.engine import ScalarEngine
from nanochat.scalar.replay import Replay

HIDDEN_SIZES = (16, 32, 64)
BATCHES = (16, 32, 64, 128)
STEPS = 12  # per round, each with its own batch
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def model(n_embd: int, dtype: str, threads: int, vocab: int) -> Any:
    """Return the recorded program of a microgpt with that hidden size."""
    config = TrainConfig(mode="scalar", preset="microgpt", n_embd=n_embd, threads=threads)
    engine = ScalarEngine(config, vocab, dtype=dtype)
    replay = Replay(
        engine.model, engine.tape, engine.matrices,
        numerics="fast", vocab_size=vocab, threads=threads,
    )  # fmt: skip
    replay.reserve(config.block_size)
    return replay.core


def batches_of(documents: list[str], letters: list[str], size: int, stages: int) -> list[Batch]:
    """Return (lengths, tokens, scale) of STEPS batches."""
    batches = []
    for step in range(STEPS):
        chosen = [documents[(step * size + i) % len(documents)] for i in range(size)]
        lengths = np.array([min(len(document) + 1, stages) for document in chosen], dtype=np.int32)
        tokens = np.zeros((size, 2 * stages), dtype=np.int32)
        for row, (document, n) in enumerate(zip(chosen, lengths, strict=True)):
            ids = [0, *(letters.index(c) + 1 for c in document), 0]
            tokens[row, 0 : 2 * n : 2], tokens[row, 1 : 2 * n : 2] = ids[:n], ids[1 : n + 1]
        batches.append((lengths, tokens, 1 / lengths / size))
    return batches


def train(core: Any, batches: list[Batch], lr: float) -> float:
    """Return the microseconds per step."""
    started = time.perf_counter()
    for lengths, tokens, scale in batches:
        core.forward(lengths, tokens, scale, None, None, False)
        core.adamw(0, core.values.size, lr, 0.85, 0.99, 1e-8, 0.0, 1)
    return (time.perf_counter() - started) / len(batches) * 1e6


def compare(
    n_embd: int, dtype: str, threads: int, rounds: int, documents: list[str]
) -> list[dict[str, Any]]:
    """Return one record per batch size."""
    letters = sorted(set("".join(documents)))
    sides = {count: model(n_embd, dtype, count, len(letters) + 1) for count in (1, threads)}
    records = []
    for size in BATCHES:
        batches = batches_of(documents, letters, size, sides[1].positions)
        for core in sides.values():
            train(core, batches, 0.001)
        if not np.array_equal(sides[1].values, sides[threads].values):
            raise SystemExit(f"{threads} threads and one thread differ in bits at batch {size}")
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
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    documents = list(load_corpus("names").documents)
    load_before = os.getloadavg()
    records = [
        record
        for dtype in ("float32", "float64")
        for n_embd in HIDDEN_SIZES
        for record in compare(n_embd, dtype, options.threads, options.rounds, documents)
    ]
    result = {"rounds": options.rounds, "load_average_before": load_before, "cases": records}
    print(write_result("scalar/threads", result))


if __name__ == "__main__":
    main()
