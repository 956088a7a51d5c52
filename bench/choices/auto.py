"""The measurement behind `--mode auto`: both engines over a grid of sizes, in turn, in one run.

    python -m bench.choices.auto [--quick]

Measures the waiting time of `nanochat train` in each cell: the time to the end of the first step
(with the import of torch, or the recording of the scalar engine) and the time of a later step. Rows
are packed from synthetic lines of block_size / 2 … block_size − 1 tokens, 27 different ones. Each
engine runs in its default dtype; torch runs on one core and on all, and the better one counts, as
does the best of the rounds. Where the rule chooses the scalar engine, it must finish STEPS steps
sooner. Writes results/choices/auto.json. --quick measures one cell and writes nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.command import command_parser
from bench.machine import write_result
from nanochat.config.engine_choice import MOST_PRODUCTS, products
from nanochat.config.options import TrainConfig
from nanochat.data.batches import make_batcher
from nanochat.data.documents import Documents
from nanochat.engines import build_engine, resolve_hardware
from nanochat.training.loop import step_settings

VOCAB = 27
STEPS = 1000
ROUNDS = 3
SHORTEST_S = 0.3  # of measured steps per round
SHAPES = (  # n_layer, n_embd, block_size
    (1, 16, 16), (1, 32, 16), (1, 48, 16), (1, 64, 16), (1, 96, 16),
    (2, 16, 16), (2, 32, 16), (2, 48, 16), (2, 64, 16), (4, 16, 16), (4, 32, 16),
    (1, 16, 32), (1, 32, 32), (2, 32, 32), (1, 16, 64), (1, 32, 64), (1, 16, 128),
)  # fmt: skip
ROWS = (1, 16, 64, 256)


@dataclass
class Times:
    """The times of one engine in one cell."""

    first_s: float  # to the end of the first step, without imports
    step_s: float

    def total_s(self, import_s: float) -> float:
        return import_s + self.first_s + STEPS * self.step_s


def synthetic_lines(block_size: int) -> Documents:
    generator = np.random.default_rng(1)
    lengths = generator.integers(block_size // 2, block_size, 2000)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Documents.of(generator.integers(1, VOCAB, offsets[-1]), offsets)


def time_engine(config: TrainConfig, documents: Documents) -> Times:
    """Time the engine from building it to the end of the first step, and one round of steps."""
    config = resolve_hardware(config)
    batcher = make_batcher(
        "packed", documents, batch_size=config.batch_size, block_size=config.block_size, seed=1
    )
    batches = [batcher.step(i) for i in range(4)]
    started = time.perf_counter()
    engine = build_engine(config, VOCAB, config.block_size)
    engine.step(batches[0], step_settings(config, 0)).read()
    first_s = time.perf_counter() - started
    best, spent, step = float("inf"), 0.0, 1
    while spent < SHORTEST_S or step < 6:
        started = time.perf_counter()
        engine.step(batches[step % 4], step_settings(config, step)).read()
        took = time.perf_counter() - started
        best, spent, step = min(best, took), spent + took, step + 1
    return Times(first_s, best)


def import_torch_s() -> float:
    """Return the seconds to import torch after numpy in a new Python: the best of the rounds."""
    code = "import numpy, time; t = time.perf_counter(); import torch; print(time.perf_counter()-t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            for _ in range(ROUNDS)]  # fmt: skip
    return min(float(run.stdout) for run in runs)


def time_cell(shape: tuple[int, int, int], rows: int, torch_s: float) -> dict[str, Any]:
    n_layer, n_embd, block_size = shape
    config = TrainConfig(
        mode="scalar", preset="microgpt", n_layer=n_layer, n_embd=n_embd, block_size=block_size,
        batch_size=rows,
    )  # fmt: skip
    documents = synthetic_lines(block_size)
    rounds: dict[str, list[Times]] = {"scalar": [], "tensor": []}
    for _ in range(ROUNDS):
        for mode, threads in (("scalar", 1), ("tensor", 1), ("tensor", 0)):
            candidate = config.changed(mode=mode, threads=threads)
            rounds[mode].append(time_engine(candidate, documents))
    best = {
        mode: Times(min(t.first_s for t in times), min(t.step_s for t in times))
        for mode, times in rounds.items()
    }
    tokens = rows * block_size
    record: dict[str, Any] = {
        "n_layer": n_layer, "n_embd": n_embd, "block_size": block_size, "rows": rows,
        "products": products(config.to_dict(), VOCAB),
    }  # fmt: skip
    for mode, times in best.items():
        import_s = torch_s if mode == "tensor" else 0.0
        record[f"{mode}_first_step_s"] = import_s + times.first_s
        record[f"{mode}_ns_per_token"] = 1e9 * times.step_s / tokens
        record[f"{mode}_total_s"] = times.total_s(import_s)
    return record


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="one cell; writes nothing")
    quick = parser.parse_args().quick
    torch_s = import_torch_s()
    time_engine(TrainConfig(mode="tensor", preset="microgpt"), synthetic_lines(16))  # warms torch
    cells = []
    print(
        "n_layer n_embd block rows products rule   scalar: s, ns per token  tensor: s, ns per token"
    )
    for shape in SHAPES[:1] if quick else SHAPES:
        for rows in ROWS[:1] if quick else ROWS:
            cell = time_cell(shape, rows, torch_s)
            cells.append(cell)
            takes = "scalar" if cell["products"] <= MOST_PRODUCTS else "tensor"
            print(
                "{:7} {:6} {:5} {:4}".format(*shape, rows), f"{cell['products']:9,} {takes}",
                *(f"{cell[f'{mode}_first_step_s']:13.2f} {cell[f'{mode}_ns_per_token']:8,.0f}"
                  for mode in ("scalar", "tensor")),
                "" if cell["scalar_total_s"] < cell["tensor_total_s"] else " tensor is faster",
                flush=True,
            )  # fmt: skip
    if quick:
        return
    record = {"steps": STEPS, "most_products": MOST_PRODUCTS, "torch_import_s": torch_s,
              "cells": cells}  # fmt: skip
    print(write_result("choices/auto", record))
    for cell in cells:
        if cell["products"] <= MOST_PRODUCTS:
            assert cell["scalar_total_s"] < cell["tensor_total_s"], cell


if __name__ == "__main__":
    main()
