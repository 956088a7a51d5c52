"""Nanoseconds of one operation on a Value, called from Python.

    python -m bench.scalar.value [--rounds N]

The row of a statement is the time of a loop over it, minus the time of an empty loop. The result of
the statement is dropped at once, so the row includes the deallocation of the node. The rounds go
through the rows in turn; prints the best round (and the median) and writes
results/scalar/value.json.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable

from bench.command import command_parser
from bench.machine import write_result
from nanochat import Value

COUNT = 100_000
EMPTY = "empty loop"
# Each statement creates a result and drops it.
STATEMENTS = {
    "a + b": "a + b",
    "a - b": "a - b",
    "a * b": "a * b",
    "a / b": "a / b",
    "-a": "-a",
    "a ** 2": "a ** 2",
    "a ** -0.5": "a ** -0.5",
    "a.exp()": "a.exp()",
    "a.log()": "a.log()",
    "a.relu()": "a.relu()",
    "a.tanh()": "a.tanh()",
    "2 * a (int on the left)": "2 * a",
    "a * 0.5 (float on the right)": "a * 0.5",
    "a + 1e-5 (float on the right)": "a + 1e-5",
    "Value(0.5)": "Value(0.5)",
    "a.data": "a.data",
    "a.grad": "a.grad",
    "a.data = 0.5": "a.data = 0.5",
    "a.grad = 0": "a.grad = 0",
}


def timed_loop(statement: str) -> Callable[[], float]:
    """Return a function that runs the statement COUNT times and returns the seconds."""
    source = (
        "def run():\n"
        "    started = clock()\n"
        "    for _ in repeat(None, count):\n"
        f"        {statement}\n"
        "    return clock() - started\n"
    )
    space = {
        "a": Value(0.75), "b": Value(1.25), "Value": Value,
        "clock": time.perf_counter, "repeat": itertools.repeat, "count": COUNT,
    }  # fmt: skip
    exec(source, space)
    run: Callable[[], float] = space["run"]  # type: ignore[assignment]  # mypy sees object
    return run


def time_sum() -> float:
    """Return the seconds of sum() over COUNT Values, whose chain stays alive."""
    terms = [Value(0.5) for _ in range(COUNT)]
    started = time.perf_counter()
    total = sum(terms)
    seconds = time.perf_counter() - started
    del total
    return seconds


def time_dot() -> float:
    """Return the seconds of microgpt.py's inner product: COUNT terms in rows of 16."""
    row, x = [Value(0.5) for _ in range(16)], [Value(0.25) for _ in range(16)]
    started = time.perf_counter()
    for _ in itertools.repeat(None, COUNT // 16):
        sum(w * v for w, v in zip(row, x))  # noqa: B905  # as microgpt.py writes it
    return time.perf_counter() - started


def time_backward() -> float:
    """Return the seconds of backward() over about COUNT nodes: half products, half sums."""
    row, x = [Value(0.5) for _ in range(16)], [Value(0.25) for _ in range(16)]
    root = sum(w * v for _ in range(COUNT // 32) for w, v in zip(row, x))  # noqa: B905  # as above
    started = time.perf_counter()
    root.backward()
    return time.perf_counter() - started


def time_dealloc() -> float:
    """Return the seconds of deallocating a list of COUNT unconnected results."""
    a = Value(0.5)
    results = [a * a for _ in range(COUNT)]
    started = time.perf_counter()
    results.clear()
    return time.perf_counter() - started


ROWS: dict[str, Callable[[], float]] = {
    EMPTY: timed_loop("pass"),
    **{name: timed_loop(statement) for name, statement in STATEMENTS.items()},
    "sum of a list, per term": time_sum,
    "sum(w * x for …), per term": time_dot,
    "backward, per node": time_backward,
    "death of a result": time_dealloc,
}


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    gc.disable()
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(rounds):
        for name, run in ROWS.items():
            times[name].append(1e9 * run() / COUNT)
    record = {}
    for name, ns in times.items():
        loop = times[EMPTY] if name in STATEMENTS else [0.0]
        best, median = min(ns) - min(loop), statistics.median(ns) - statistics.median(loop)
        record[name] = {"best": best, "median": median}
        print(f"{name:32} {best:7.1f} ns ({median:.1f})")
    print(write_result("scalar/value", {"rounds": rounds, "count": COUNT, "ns": record}))


if __name__ == "__main__":
    main()
