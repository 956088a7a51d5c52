"""Steps in float32 beside bfloat16, by width: from where on `--dtype auto` takes bfloat16.

    python -m bench.tensor.dtypes [--rounds 5]

Both engines of a width are built once and take twenty steps each in turn. Writes
results/tensor/dtypes.json with the medians of each round's mean step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

from bench.machine import write_result
from bench.tensor.compile import text
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.engines import build_engine, resolve_hardware
from nanochat.training.loop import step_settings

WIDTHS = (32, 48, 64, 96, 128, 192)
DTYPES = ("float32", "bfloat16")
STEPS = 20


def stepper(width: int, dtype: str, path: str) -> Callable[[], float]:
    """Takes STEPS steps of preset nano at that width; returns the mean step's milliseconds."""
    config = resolve_hardware(
        TrainConfig(mode="tensor", preset="nano", data=path, n_embd=width, n_head=2, dtype=dtype)
    )
    dataset = load_dataset(config)
    batcher, vocab = dataset.batcher(config), dataset.tokenizer
    engine = build_engine(config, vocab.vocab_size, config.block_size)

    def run() -> float:
        began = time.perf_counter()
        for step in range(STEPS):
            engine.step(batcher.step(step), step_settings(config, step)).read()
        return (time.perf_counter() - began) / STEPS * 1e3

    run()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = []
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text())
        file.flush()
        for width in WIDTHS:
            runs = {dtype: stepper(width, dtype, file.name) for dtype in DTYPES}
            times: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
            for _ in range(rounds):
                for dtype in DTYPES:
                    times[dtype].append(runs[dtype]())
            wide, narrow = (statistics.median(times[dtype]) for dtype in DTYPES)
            row = {"n_embd": width, "float32_ms": wide, "bfloat16_ms": narrow}
            rows.append({**row, "ratio": wide / narrow})
            print(
                f"width {width:3}: float32 {wide:6.2f} ms, bfloat16 {narrow:6.2f} ms,"
                f" {wide / narrow:.2f} times",
                flush=True,
            )
    print(write_result("tensor/dtypes", {"rounds": rounds, "steps": STEPS, "widths": rows}))


if __name__ == "__main__":
    main()
