"""One step of AdamW on the CPU: the kernel against separate passes of torch.

    python -m bench.tensor.adamw [--repeats 200] [--presets nano small]

Both sides take the norm, clip, update, zero the gradients and, in bfloat16, write the copy of the
weights, in turn, on the weights of a preset. A ratio compares the medians of the two. Writes
results/tensor/adamw.json.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from bench.command import command_parser
from bench.machine import write_result
from nanochat.config.options import TrainConfig
from nanochat.tensor.engine import TensorEngine
from nanochat.tensor.optimizer import FlatOptimizer
from nanochat.training.loop import step_settings

VOCAB = 128


def measure(preset: str, dtype: str, repeats: int) -> dict[str, Any]:
    """Return the milliseconds of both sides and how often the kernel fits in the passes' time."""
    given: dict[str, Any] = {"preset": preset, "dtype": dtype, "device": "cpu"}
    config = TrainConfig(mode="tensor", **given)
    engine = TensorEngine(config, VOCAB, device="cpu", dtype=dtype)
    passes = FlatOptimizer(config, engine.weights)
    passes.by_kernel = False
    rates = step_settings(config, 0)
    drawn = torch.randn_like(engine.weights.gradients) * 1e-3
    times: dict[str, list[float]] = {"kernel": [], "passes": []}
    for _ in range(repeats):
        for name, optimizer in (("kernel", engine.optimizer), ("passes", passes)):
            engine.weights.gradients.copy_(drawn)
            began = time.perf_counter()
            optimizer.step(rates)
            times[name].append(time.perf_counter() - began)
    kernel, separate = (statistics.median(times[name]) * 1e3 for name in ("kernel", "passes"))
    return {
        "preset": preset, "dtype": dtype, "parameters": engine.weights.size, "kernel_ms": kernel,
        "passes_ms": separate, "ratio": separate / kernel,
        "best_ratio": min(times["passes"]) / min(times["kernel"]),
    }  # fmt: skip


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--presets", nargs="+", default=["mini", "nano", "small"])
    options = parser.parse_args()
    rows = []
    for preset in options.presets:
        for dtype in ("float32", "bfloat16"):
            row = measure(preset, dtype, options.repeats)
            rows.append(row)
            print(
                f"{preset:6} {dtype:8} {row['parameters']:>9,} parameters: passes"
                f" {row['passes_ms']:.3f} ms, kernel {row['kernel_ms']:.3f} ms, ratio"
                f" {row['ratio']:.2f}, of the best {row['best_ratio']:.2f}",
                flush=True,
            )
    print("wrote", write_result("tensor/adamw", {"repeats": options.repeats, "rows": rows}))


if __name__ == "__main__":
    main()
