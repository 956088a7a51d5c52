"""Microseconds per `program.step` of microgpt's model, compared with an older installation.

    python -m bench.scalar.step --base PYTHON [--rounds 200]

PYTHON is the interpreter of an environment with the older nanochat. One process per side records
the model, then both take the same steps on names in turn: 16 documents per step in float32, and one
document per step in float64. Documents differ in length, so most batches of 16 have a new shape. A
block is a few consecutive steps; the time of a side is the mean over the blocks of the fastest run
of each, because the machine may be busy. Prints the times and their ratio, and writes
results/scalar/step.json.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

# case → documents per step, dtype, steps, steps per block, target of the ratio
CASES = {
    "16 documents, float32": (16, "float32", 20, 2, 0.55),
    "one document, float64": (1, "float64", 60, 5, 0.75),
}
STEP = {"lr": 1e-3, "beta1": 0.85, "beta2": 0.99, "eps": 1e-8}


def record_model(letters: str, dtype: str) -> Any:
    """Record the model of the microgpt preset with nanochat.compile."""
    import numpy as np

    import nanochat
    from nanochat.config.options import TrainConfig
    from nanochat.model.parameters import initial_weights
    from nanochat.scalar.functions import cross_entropy
    from nanochat.scalar.minigpt import MiniGPT
    from nanochat.scalar.value import Tape

    config = TrainConfig(mode="scalar", preset="microgpt")
    tape, matrices = Tape(), {}
    for name, weight in initial_weights(config, len(letters) + 1).items():
        matrices[name] = tape.matrix(*np.shape(weight))
        matrices[name].values[:] = weight
    model = MiniGPT(config, matrices)

    def losses(tokens: list[Any]) -> list[Any]:
        cache = model.new_cache()
        return [
            cross_entropy(model.logits(token, position, cache), target)
            for position, (token, target) in enumerate(pairwise(tokens))
        ]

    return nanochat.compile(
        losses, matrices, tokens=config.block_size + 1, tape=tape, dtype=dtype, numerics="fast"
    )


def work(names_file: str) -> None:
    """Take the steps of each case named on stdin; print the microseconds per step of each block."""
    names = Path(names_file).read_text(encoding="utf-8").split()
    letters = "".join(sorted(set("".join(names))))
    documents = [[0, *(letters.index(c) + 1 for c in name), 0][:17] for name in names]
    programs: dict[str, Any] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        size, dtype, steps, block, _ = CASES[line.strip()]
        if dtype not in programs:
            programs[dtype] = record_model(letters, dtype)
        step, times = programs[dtype].step, []
        for first in range(0, steps, block):
            batches = [documents[i * size : (i + 1) * size] for i in range(first, first + block)]
            started = time.perf_counter()
            for batch in batches:
                step(batch, **STEP)
            times.append(1e6 * (time.perf_counter() - started) / block)
        print(*times, flush=True)


class Side:
    """The process of one side."""

    def __init__(self, python: str, names: Path, folder: str) -> None:
        command = [python, str(Path(__file__).resolve()), "--worker", str(names)]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._read()

    def run(self, case: str) -> list[float]:
        stdin: IO[str] | None = self.process.stdin
        assert stdin is not None
        print(case, file=stdin, flush=True)
        return [float(word) for word in self._read().split()]

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a side of the comparison failed; its error is above")
        return line


def best_of_blocks(rounds: list[list[float]]) -> float:
    return statistics.fmean(min(times) for times in zip(*rounds, strict=True))


def main() -> None:
    from bench.command import command_parser
    from bench.machine import write_result

    parser = command_parser(__doc__)
    parser.add_argument("--base", required=True, help="interpreter of the older installation")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    names = Path(__file__).resolve().parents[2] / "nanochat" / "data" / "corpora" / "names.txt"
    record: dict[str, Any] = {"rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder:
        pythons = {"base": options.base, "this": sys.executable}
        sides = {name: Side(python, names, folder) for name, python in pythons.items()}
        for case, (*_, target) in CASES.items():
            times: dict[str, list[list[float]]] = {name: [] for name in sides}
            for _ in range(options.rounds):
                for name, side in sides.items():
                    times[name].append(side.run(case))
            best = {name: best_of_blocks(rounds) for name, rounds in times.items()}
            ratio = best["this"] / best["base"]
            record[case] = {"step_us": best, "ratio": ratio, "target": target}
            print(f"{case}: {best['this']:.1f} us, base {best['base']:.1f} us, ratio {ratio:.3f}")
        for side in sides.values():
            side.process.terminate()
    print(write_result("scalar/step", record))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        main()
