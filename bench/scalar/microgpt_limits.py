"""What the machine would allow a step of microgpt's model to take; docs/program.md explains.

    python -m bench.scalar.microgpt_limits

prints, as JSON, the peaks of one core: NumPy's matrix product (512³) and its copy, both on one
thread. Run as a process of its own by microgpt.py, so that the thread count is set before NumPy
is imported. The other functions count the work of a step and the padding of its lanes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat import philox
from nanochat.philox import Stream

VOCAB, BLOCK_SIZE, HEADS = 27, 16, 4  # names.txt; microgpt.py's settings, one layer

Lengths = NDArray[np.int64]  # (steps, batch) positions of each document


def lengths_of(texts: list[str], steps: int, batch: int, *, shuffled: bool = False) -> Lengths:
    """Documents in turn: a position for each letter and one for the end, cut at the block size."""
    positions = np.array([min(len(text) + 1, BLOCK_SIZE) for text in texts])
    if shuffled:
        positions = positions[philox.permutation(0, Stream.BATCHES, 0, len(positions))]
    return positions[np.arange(steps * batch).reshape(steps, batch) % len(texts)]


def parameters(d: int) -> int:
    """wte, lm_head and wpe; four d × d matrices of attention; the two of the MLP."""
    return (2 * VOCAB + BLOCK_SIZE) * d + 12 * d * d


def flops(d: int, lengths: Lengths) -> float:
    """Of the matrix products of a step, the mean over the steps: two for each multiply-add.

    A position is multiplied with every weight but the embeddings' (12 d² + V d), and attends: the
    position t, from 0, has t + 1 scores of d multiply-adds in all heads together, and as many to
    sum the values: d n (n + 1) for n positions. Backward is twice that: the gradient of the
    inputs and the gradient of the weights. Norms, softmax and Adam are not counted.
    """
    multiply_adds = lengths * (12 * d * d + VOCAB * d) + d * lengths * (lengths + 1)
    return float(2 * 3 * multiply_adds.sum(axis=1).mean())


def adam_bytes(d: int, size: int) -> int:
    """Adam reads value, gradient and both moments and writes all but the gradient."""
    return 7 * parameters(d) * size


def limit(d: int, lengths: Lengths, dtype: str, peaks: dict[str, Any]) -> dict[str, float]:
    """Microseconds that the counted work of a step takes at this core's measured peaks.

    The two are added, for Adam begins when the gradients are there.
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


def padding(d: int, lengths: Lengths, width: int) -> dict[str, float]:
    """The share of all lane work that is padding, by multiply-adds, for vectors of `width` lanes.

    Ours: a row holds a number of every position of every document in one run, filled up at its
    end alone; attention goes position by position, over the documents that reach it. (A gradient
    of weights has no padding, for its lanes are weights: it is counted as if it had.) Alone: a
    document has a lane to itself until the longest of the batch ends.
    """
    position = np.arange(BLOCK_SIZE)
    alive = (lengths[:, :, None] > position).sum(axis=1)  # (steps, block_size) documents
    dense, attention = 12 * d * d + VOCAB * d, 2 * d * (position + 1)

    def filled(lanes: NDArray[Any]) -> NDArray[Any]:
        return -(-lanes // width) * width

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
    """GFLOP/s of a 512³ product; GB/s, read plus written, of a copy as large as Adam's state."""
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
    """measure() in a process of its own, with one thread."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, **one}, capture_output=True, check=True
    )
    peaks: dict[str, Any] = json.loads(done.stdout)
    return peaks


def best_of(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The larger of each figure."""
    return {
        key: best_of(value, second[key]) if isinstance(value, dict) else max(value, second[key])
        for key, value in first.items()
    }


def texts_of(names: Path) -> list[str]:
    return names.read_text(encoding="utf-8").split()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
