"""Nanoseconds and graph nodes of one neuron, from scalars in Python to vectors in C++.

    python -m bench.scalar.neuron [--rounds N]

A neuron is `sum(wi * xi for wi, xi in zip(w, x))` of 16 terms. Eager: it runs on Values. Replayed:
layers of 64 and of 256 such neurons with relu are recorded on 16 positions of one document. The
time of one neuron is the difference between both layers, divided by 192 neurons × 16 positions; it
includes the relu and a share of the sum. The limit is the throughput of two vector units of fused
multiply-adds at the clock rate that the system reports. The rounds go through the cases in turn;
prints the best round (and the median). docs/program.md explains the figures. Writes
results/scalar/neuron.json.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nanochat
from bench.command import command_parser
from bench.machine import write_result
from nanochat.scalar.value import Tape, Value
from nanochat.system.environment import cpu_features

TERMS, POSITIONS, FEW, MANY = 16, 16, 64, 256
REPEATS = 200  # of a case per round


def neuron(w: list[Value], x: list[Value]) -> Value:
    return sum(  # type: ignore[return-value]  # typed as if its start, the int 0, could come back
        wi * xi for wi, xi in zip(w, x, strict=True)
    )


def layer(neurons: int, numerics: str) -> nanochat.Program:
    """Record losses Σ relu(neuron) of `neurons` neurons on one embedding per position."""
    tape = Tape()
    generator = np.random.default_rng(0)
    embedding, weight = tape.matrix(8, TERMS), tape.matrix(neurons, TERMS)
    for matrix in (embedding, weight):
        matrix.values[:] = generator.normal(0, 0.3, matrix.values.shape)

    def losses(tokens: list[Any]) -> list[Value]:
        rows, found = weight.rows(), []
        for token in tokens:
            # A separate node per position: an exact gradient of a row must have a single user.
            x = [e + 0.0 for e in embedding.row(token)]
            found.append(sum(neuron(w, x).relu() for w in rows))
        return found  # type: ignore[return-value]  # as above: sum() of Values is a Value

    return nanochat.compile(
        losses, [embedding, weight], tokens=POSITIONS, numerics=numerics, tape=tape
    )


def eager(backward: bool) -> Callable[[], None]:
    tape = Tape()
    w = tape.matrix(1, TERMS)
    x = tape.matrix(1, TERMS)
    for matrix in (w, x):
        matrix.values[:] = 0.5
    weights, inputs = w.rows()[0], x.rows()[0]

    def run() -> None:
        result = neuron(weights, inputs)
        if backward:
            result.backward()

    return run


def replay(program: nanochat.Program, backward: bool) -> Callable[[], None]:
    """Return the bare replay: no list of tokens is read, and no Value is updated."""
    core = program.core
    lengths = np.array([POSITIONS], dtype=np.int32)
    tokens = np.zeros((1, POSITIONS), dtype=np.int32)
    scale = np.array([1.0 / POSITIONS])
    core.load()

    def run() -> None:
        core.forward(lengths, tokens, scale)
        if backward:
            core.backward()

    return run


def clock_ghz() -> float | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return max(
        (float(x.split(":")[1]) / 1e3 for x in lines if x.startswith("cpu MHz")), default=None
    )


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds

    explained = layer(FEW, "fast").explain()
    passes = [line for line in explained.splitlines() if " nodes: " in line]
    print("\n".join(passes))

    cases: dict[str, Callable[[], None]] = {"eager": eager(False), "eager, backward": eager(True)}
    programs = {(n, m): layer(n, m) for n in (FEW, MANY) for m in ("exact", "fast")}
    for (n, numerics), program in programs.items():
        cases[f"{numerics} {n}"] = replay(program, False)
        cases[f"{numerics} {n}, backward"] = replay(program, True)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            started = time.perf_counter()
            for _ in range(REPEATS):
                run()
            times[name].append(1e9 * (time.perf_counter() - started) / REPEATS)

    extra = (MANY - FEW) * POSITIONS
    record: dict[str, dict[str, float]] = {}
    for end in ("", ", backward"):
        record[f"eager{end}"] = {
            f.__name__: f(times[f"eager{end}"]) for f in (min, statistics.median)
        }
        for m in ("exact", "fast"):
            few, many = times[f"{m} {FEW}{end}"], times[f"{m} {MANY}{end}"]
            record[f"{m} replay{end}"] = {
                f.__name__: (f(many) - f(few)) / extra for f in (min, statistics.median)
            }
    for name, ns in record.items():
        print(f"{name:24} {ns['min']:9.2f} ns per neuron ({ns['median']:.2f})")
    lanes = 8 if "avx512f" in cpu_features() else 4
    ghz = clock_ghz()
    limit = TERMS / (2 * lanes) / ghz if ghz else None
    if limit:
        print(f"two units of {lanes} multiply-adds at {ghz:.2f} GHz: {limit:.2f} ns per neuron")
    result = {"rounds": rounds, "terms": TERMS, "passes": passes, "ns_per_neuron": record,
              "lanes": lanes, "ghz": ghz, "limit_ns": limit}  # fmt: skip
    print(write_result("scalar/neuron", result))


if __name__ == "__main__":
    main()
