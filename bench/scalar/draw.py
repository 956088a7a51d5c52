"""Nanoseconds of one token's draw from a row of logits: ours in C++, the specification in NumPy,
and Python's random.choices, in turn, in one run.

    python -m bench.scalar.draw [--rounds N] [--vocab 27] [--temperature 0.5]

`rows` draws from many rows in one call, so that a draw is C++ alone; `row` is a call for each row.
random.choices is what microgpt.py samples with; it is given weights that are ready, while both
others begin at the logits. That ours gives the specification's tokens is checked first. Best
(median) of the rounds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy as np

from bench.machine import write_result
from nanochat import philox
from nanochat.philox import Stream
from nanochat.sampling import draw as specification
from nanochat.scalar.draw import draw

ROWS = 1024


def cases(vocab: int, temperature: float) -> dict[str, Callable[[], object]]:
    """By name, a function that draws ROWS tokens."""
    logits = 2 * philox.normals(1, Stream.INIT, 0, ROWS * vocab).reshape(ROWS, vocab)
    single = logits.astype(np.float32)
    words = philox.random_u64(1, Stream.SAMPLING, 0, ROWS)
    wanted = specification.draw(logits, words, temperature=temperature)
    for rows in (logits, single):
        assert (draw(rows, words, temperature=temperature) == wanted).all()
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature).tolist()
    pairs = [(single[i : i + 1], words[i : i + 1]) for i in range(ROWS)]
    tokens = range(vocab)
    return {
        "C++, rows, float32": lambda: draw(single, words, temperature=temperature),
        "C++, rows, float64": lambda: draw(logits, words, temperature=temperature),
        "C++, rows, float32, top-k 10, top-p 0.9": lambda: draw(
            single, words, temperature=temperature, top_k=10, top_p=0.9
        ),
        "C++, row, float32": lambda: [draw(*pair, temperature=temperature) for pair in pairs],
        "NumPy, rows": lambda: specification.draw(single, words, temperature=temperature),
        "NumPy, row": lambda: [
            specification.draw(*pair, temperature=temperature) for pair in pairs
        ],
        "random.choices, weights ready": lambda: [random.choices(tokens, row) for row in weights],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--vocab", type=int, default=27)
    parser.add_argument("--temperature", type=float, default=0.5)
    options = parser.parse_args()
    runs = cases(options.vocab, options.temperature)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(1e9 * (time.perf_counter() - started) / ROWS)
    record = {
        name: {"best": min(ns), "median": statistics.median(ns)} for name, ns in times.items()
    }
    for name, ns in record.items():
        print(f"{name:40} {ns['best']:10.1f} ns a draw ({ns['median']:.1f})")
    result = {"vocab": options.vocab, "temperature": options.temperature, "rows": ROWS,
              "rounds": options.rounds, "ns_per_draw": record}  # fmt: skip
    print(write_result("scalar/draw", result))


if __name__ == "__main__":
    main()
