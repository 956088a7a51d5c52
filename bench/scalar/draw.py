"""Nanoseconds per token drawn from a row of logits: C++, NumPy and random.choices compared.

    python -m bench.scalar.draw [--rounds N] [--vocab 27] [--temperature 0.5]

The sides are the project's C++ function, its specification in NumPy, and Python's random.choices,
timed in turn in one run. `rows` draws from many rows in one call, which measures the C++ code
alone; `row` makes one call per row. microgpt.py samples with random.choices. It receives weights
that are ready, while the other sides start from logits. Before the timing, the C++ tokens are
compared with those of the specification. Prints the best round (and the median) and writes
results/scalar/draw.json.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import numpy as np

from bench.command import command_parser
from bench.machine import write_result
from nanochat import philox
from nanochat.philox import Stream
from nanochat.sampling import draw as specification
from nanochat.scalar.draw import draw

ROWS = 1024


def cases(vocab: int, temperature: float) -> dict[str, Callable[[], object]]:
    """Return functions that draw ROWS tokens, by name."""
    logits = 2 * philox.normals(1, Stream.INIT, 0, ROWS * vocab).reshape(ROWS, vocab)
    single = logits.astype(np.float32)
    words = philox.random_u64(1, Stream.SAMPLING, 0, ROWS)
    expected = specification.draw(logits, words, temperature=temperature)
    for rows in (logits, single):
        assert (draw(rows, words, temperature=temperature) == expected).all()
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
    parser = command_parser(__doc__)
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
        print(f"{name:40} {ns['best']:10.1f} ns per draw ({ns['median']:.1f})")
    result = {"vocab": options.vocab, "temperature": options.temperature, "rows": ROWS,
              "rounds": options.rounds, "ns_per_draw": record}  # fmt: skip
    print(write_result("scalar/draw", result))


if __name__ == "__main__":
    main()
