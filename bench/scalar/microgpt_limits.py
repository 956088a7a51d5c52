"""The machine's limit for a step of microgpt's model. docs/program.md explains it.

    python -m bench.scalar.microgpt_limits

Prints the peaks of one core as JSON: NumPy's matrix product (512³) and its copy, both on one
thread. bench.scalar.microgpt runs it as a separate process, to set the thread count before NumPy
is imported. The other functions count the work of a step and the padding of its lanes.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.command import command_parser, module_command, module_environment
from nanochat import philox
from nanochat.philox import Stream

VOCAB, BLOCK_SIZE, HEADS = 27, 16, 4  # names.txt; microgpt.py's options, one layer

Lengths = NDArray[np.int64]  # (steps, batch) positions of each document


def lengths_of(documents: list[str], steps: int, batch: int, *, shuffled: bool = False) -> Lengths:
    """Count the positions of documents in turn: letters plus one, at most the block size."""
    positions = np.array([min(len(text) + 1, BLOCK_SIZE) for text in documents])
    if shuffled:
        positions = positions[philox.permutation(0, Stream.BATCHES, 0, len(positions))]
    return positions[np.arange(steps * batch).reshape(steps, batch) % len(documents)]


def parameters(d: int) -> int:
    """Count the weights: wte, lm_head, wpe, four d × d attention matrices, two of the MLP."""
    return (2 * VOCAB + BLOCK_SIZE) * d + 12 * d * d


def flops(d: int, lengths: Lengths) -> float:
    """Count the operations of a step's matrix products: two per multiply-add, mean over the steps.

    Each position is multiplied with every weight except the embeddings (12 d² + V d). Attention at
    position t, from 0, computes t + 1 scores of d multiply-adds over all heads, and as many to sum
    the values: d n (n + 1) for n positions. Backward takes twice as many: the gradients of the
    inputs and of the weights. Norms, softmax and Adam are not counted.
    """
    multiply_adds = lengths * (12 * d * d + VOCAB * d) + d * lengths * (lengths + 1)
    return float(2 * 3 * multiply_adds.sum(axis=1).mean())


def adam_bytes(d: int, size: int) -> int:
    """Count Adam's bytes: it reads value, gradient, both moments; writes all but the gradient."""
    return 7 * parameters(d) * size


def limit(d: int, lengths: Lengths, dtype: str, peaks: dict[str, Any]) -> dict[str, float]:
    """Return the microseconds of a step's counted work at this core's measured peaks.

    Both parts are added, because Adam starts after the gradients are complete.
    """
    work, state = flops(d, lengths), adam_bytes(d, np.dtype(dtype).itemsize)
    products_us = work / peaks["gflops"][dtype] / 1e3
    adam_us = state / peaks["copy_gb_per_s"][str(d)][dtype] / 1e3
    return {
        "flops": work,
        "adam_bytes": state,
        "products_us": products_us,
        "adam_us": adam_us,
        "limit_us": products_us + adam_us,
    }


def padding(d: int, lengths: Lengths, lanes: int) -> dict[str, float]:
    """Return the share of multiply-adds that are padding, for vectors of `lanes` lanes.

    ours: the positions of all documents lie end to end, with padding only at the end; attention
    goes position by position, over the documents that reach it. (Gradients of weights have no
    padding, because their lanes are weights; they are counted as if they had.) documents_alone:
    each document keeps one lane until the longest document of the batch ends.
    """
    position = np.arange(BLOCK_SIZE)
    alive = (lengths[:, :, None] > position).sum(axis=1)  # (steps, block_size) documents
    dense, attention = 12 * d * d + VOCAB * d, 2 * d * (position + 1)

    def filled(used: NDArray[Any]) -> NDArray[Any]:
        return -(-used // lanes) * lanes

    used = dense * lengths.sum() + (alive * attention).sum()
    ours = dense * filled(lengths.sum(axis=1)).sum() + (filled(alive) * attention).sum()
    alone = filled(alive[:, :1]) * (alive > 0) * (dense + attention)
    return {"ours": 1 - float(used / ours), "documents_alone": 1 - float(used / alone.sum())}


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def measure() -> dict[str, Any]:
    """Measure a 512³ product in GFLOP/s, and a copy of Adam's size in GB/s (read plus written)."""
    size = 512
    peaks: dict[str, Any] = {"gflops": {}, "copy_gb_per_s": {}}
    for dtype in ("float32", "float64"):
        a = np.full((size, size), 0.5, dtype=dtype)
        product = np.empty_like(a)
        seconds = best_seconds(partial(np.matmul, a, a, out=product), 40)
        peaks["gflops"][dtype] = 2 * size**3 / seconds / 1e9
    for d in (16, 32, 64):
        peaks["copy_gb_per_s"][str(d)] = {}
        for dtype in ("float32", "float64"):
            source = np.ones(2 * parameters(d), dtype=dtype)
            copied = np.empty_like(source)
            seconds = best_seconds(partial(np.copyto, copied, source), 2000)
            peaks["copy_gb_per_s"][str(d)][dtype] = 2 * source.nbytes / seconds / 1e9
    return peaks


def measured_alone() -> dict[str, Any]:
    """Run measure() in a separate process with one thread."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = module_command("bench.scalar.microgpt_limits")
    done = subprocess.run(command, env=module_environment(**one), capture_output=True, check=True)
    peaks: dict[str, Any] = json.loads(done.stdout)
    return peaks


def best_of(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the larger of each figure."""
    return {
        key: best_of(value, second[key]) if isinstance(value, dict) else max(value, second[key])
        for key, value in first.items()
    }


def documents_of(names: Path) -> list[str]:
    return names.read_text(encoding="utf-8").split()


def main() -> None:
    command_parser(__doc__).parse_args()
    print(json.dumps(measure(), indent=2))


if __name__ == "__main__":
    main()
