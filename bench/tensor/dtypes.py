"""Steps in float32 and bfloat16 by hidden size: the measurement behind `--dtype auto`.

    python -m bench.tensor.dtypes [--rounds 5] [--sizes N…]

Both engines of a hidden size are built once, and take twenty steps each in turn. Writes
results/tensor/dtypes.json with the medians of each round's mean step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

from bench.command import command_parser
from bench.machine import write_result
from bench.tensor.compile import text
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.engines import build_engine, resolve_hardware
from nanochat.training.loop import step_settings

HIDDEN_SIZES = (32, 48, 64, 96, 128, 192)
DTYPES = ("float32", "bfloat16")
STEPS = 20


def build_stepper(n_embd: int, dtype: str, path: str) -> Callable[[], float]:
    """Return a function that takes STEPS steps of preset nano and returns their mean in ms."""
    config = resolve_hardware(
        TrainConfig(mode="tensor", preset="nano", data=path, n_embd=n_embd, n_head=2, dtype=dtype)
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
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=HIDDEN_SIZES, help="hidden sizes")
    options = parser.parse_args()
    rows = []
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text())
        file.flush()
        for n_embd in options.sizes:
            runs = {dtype: build_stepper(n_embd, dtype, file.name) for dtype in DTYPES}
            times: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
            for _ in range(options.rounds):
                for dtype in DTYPES:
                    times[dtype].append(runs[dtype]())
            float32, bfloat16 = (statistics.median(times[dtype]) for dtype in DTYPES)
            row = {"n_embd": n_embd, "float32_ms": float32, "bfloat16_ms": bfloat16}
            rows.append({**row, "ratio": float32 / bfloat16})
            print(
                f"hidden size {n_embd:3}: float32 {float32:6.2f} ms, bfloat16 {bfloat16:6.2f} ms,"
                f" ratio {float32 / bfloat16:.2f}",
                flush=True,
            )
    print(write_result("tensor/dtypes", {"rounds": options.rounds, "steps": STEPS, "widths": rows}))


if __name__ == "__main__":
    main()
