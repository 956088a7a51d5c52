"""Steps with and without counted n-grams: the cost of the mixture's loss.

    python -m bench.tensor.mixture [--rounds 9] [--presets nano small] [--tokenizers char byte]

The two engines of a preset, tokenizer and dtype differ only in --ngram-order. They are built once
and take twenty steps each in turn, in every round. A ratio compares the two steps of one round; the
median of the ratios is the figure to read on a machine that other work slows down. Writes
results/tensor/mixture.json.
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
from nanochat.commands.mixing import with_counts
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.engines import resolve_hardware

ORDER = 6
MOST = 1.15  # the limit of a ratio


def build_stepper(path: str, **given: Any) -> Callable[[], float]:
    """Return a function that takes STEPS steps and returns their median in ms."""
    config = resolve_hardware(TrainConfig(mode="tensor", data=path, **given))
    return stepper(config, with_counts(load_dataset(config), config))


def measure(path: str, rounds: int, **given: Any) -> dict[str, Any]:
    """Return one row: the step's milliseconds without and with counts."""
    sides = [build_stepper(path, ngram_order=order, **given) for order in (0, ORDER)]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, run in enumerate(sides):
            times[side].append(run())
    without, mixed = times
    return {
        **given, "ngram_order": ORDER,
        "without_ms": statistics.median(without), "with_ms": statistics.median(mixed),
        "ratio": statistics.median(b / a for a, b in zip(without, mixed, strict=True)),
        "best_ratio": min(mixed) / min(without),
    }  # fmt: skip


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--presets", nargs="+", default=["nano", "small"])
    parser.add_argument("--tokenizers", nargs="+", default=["char", "byte"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    rows = []
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text())
        file.flush()
        for preset in options.presets:
            for tokenizer in options.tokenizers:
                for dtype in options.dtypes:
                    row = measure(
                        file.name, options.rounds, preset=preset, tokenizer=tokenizer, dtype=dtype
                    )
                    rows.append(row)
                    print(
                        f"{preset:6} {tokenizer:5} {dtype:8} {row['without_ms']:6.2f} →"
                        f" {row['with_ms']:6.2f} ms, ratio {row['ratio']:.3f}, of the best"
                        f" {row['best_ratio']:.3f} (limit {MOST})",
                        flush=True,
                    )
    record = {"rounds": options.rounds, "steps": STEPS, "limit": MOST, "rows": rows}
    print("wrote", write_result("tensor/mixture", record))


if __name__ == "__main__":
    main()
