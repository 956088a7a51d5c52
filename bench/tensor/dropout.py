"""Steps with and without dropout: the cost of the masks and of their application.

    python -m bench.tensor.dropout [--rounds 9] [--presets nano small] [--dropout 0.1 0.3]

The engines of a preset and dtype differ only in their dropout. They are built once and take twenty
steps each in turn, in every round. A ratio compares the two steps of one round; the median of the
ratios is the figure to read on a machine that other work slows down. Writes
results/tensor/dropout.json.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from typing import Any

from bench.command import command_parser
from bench.machine import write_result
from bench.tensor.compile import text
from bench.tensor.stepper import STEPS, stepper
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.engines import resolve_hardware

DTYPES = ("float32", "bfloat16")
MOST = 1.15  # the limit of a ratio


def build_stepper(preset: str, dtype: str, dropout: float, path: str) -> Callable[[], float]:
    """Return a function that takes STEPS steps and returns their median in ms."""
    given: dict[str, Any] = {"preset": preset, "dtype": dtype, "dropout": dropout, "data": path}
    # Training a BPE tokenizer would take time and change no step but for the size of the head.
    config = resolve_hardware(TrainConfig(mode="tensor", tokenizer="byte", **given))
    return stepper(config, load_dataset(config))


def measure(
    preset: str, dtype: str, rates: list[float], rounds: int, path: str
) -> list[dict[str, Any]]:
    """Return one row per dropout above 0."""
    steppers = {rate: build_stepper(preset, dtype, rate, path) for rate in [0.0, *rates]}
    times: dict[float, list[float]] = {rate: [] for rate in steppers}
    for _ in range(rounds):
        for rate, run in steppers.items():
            times[rate].append(run())
    return [
        {
            "preset": preset, "dtype": dtype, "dropout": rate,
            "without_ms": statistics.median(times[0.0]),
            "with_ms": statistics.median(times[rate]),
            "best_without_ms": min(times[0.0]), "best_with_ms": min(times[rate]),
            "ratio": statistics.median(b / a for a, b in zip(times[0.0], times[rate], strict=True)),
            "best_ratio": min(times[rate]) / min(times[0.0]),
        }
        for rate in rates
    ]  # fmt: skip


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--presets", nargs="+", default=["nano", "small"])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.1, 0.3])
    options = parser.parse_args()
    rows = []
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text())
        file.flush()
        for preset in options.presets:
            for dtype in DTYPES:
                for row in measure(preset, dtype, options.dropout, options.rounds, file.name):
                    rows.append(row)
                    print(
                        f"{preset:6} {dtype:8} dropout {row['dropout']}: {row['without_ms']:6.2f}"
                        f" → {row['with_ms']:6.2f} ms, ratio {row['ratio']:.2f}, of the best"
                        f" {row['best_ratio']:.2f} (limit {MOST})",
                        flush=True,
                    )
    record = {"rounds": options.rounds, "steps": STEPS, "limit": MOST, "rows": rows}
    print("wrote", write_result("tensor/dropout", record))


if __name__ == "__main__":
    main()
