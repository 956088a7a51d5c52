"""The parts of a training step's time: matrix products, our kernels, the optimizer and the rest.

    python -m bench.tensor.profile_step --text FILE [--steps 100] [--name NAME] -- TRAINING OPTIONS

    python -m bench.tensor.profile_step --text FILE -- --preset nano --prev-token-tables 0

Times whole steps without a profiler first, and then the same number of steps under torch.profiler,
in which the project's kernels have names. Counts 6 operations per weight and token for every
product and 12 per layer, hidden dimension and pair of positions for attention, masked pairs
included. The peak is the rate of a large product in the same dtype and the same run. Writes
results/tensor/NAME.json.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.command import command_parser
from bench.machine import write_result
from nanochat.config.flags import read_flags
from nanochat.config.options import TrainConfig, options_of
from nanochat.config.sources import gather_options
from nanochat.data.dataset import load_dataset
from nanochat.engines import build_engine, resolve_hardware
from nanochat.errors import ConfigError
from nanochat.model.parameters import parameter_specs
from nanochat.tensor.native import kernels
from nanochat.training.loop import step_settings

PEAK_SIZE = 1024


def main() -> None:
    options, config = parsed()
    config = resolve_hardware(config)
    dataset = load_dataset(config)
    tokenizer, longest = dataset.tokenizer, dataset.longest_segment(config.block_size)
    engine = build_engine(config, tokenizer.vocab_size, longest)
    batcher = dataset.batcher(config)

    def step(number: int) -> None:
        with record_function("batch"):
            batch = batcher.step(number)
        engine.step(batch, step_settings(config, number)).read()

    for number in range(30):
        step(number)
    times = [seconds(functools.partial(step, 30 + number)) for number in range(options.steps)]
    step_ms = statistics.median(times) * 1e3
    name_kernels()
    rows = profiled(step, options.steps, config.device)
    peak = product_peak(config.dtype, config.device)
    operations = flops(config, tokenizer.vocab_size)
    record = {
        "options": {
            **{name: getattr(config, name) for name in sorted(config.given)},
            "data": options.text.name,  # without the local folder
        },
        "step_ms": step_ms,
        "best_ms": min(times) * 1e3,
        "gflop": operations / 1e9,
        "peak_gflop_s": peak / 1e9,
        "of_peak": operations / (step_ms / 1e3) / peak,
        "parts": rows,
    }
    report(record)
    print("wrote", write_result(f"tensor/{options.name}", record))


def parsed() -> tuple[argparse.Namespace, TrainConfig]:
    parser = command_parser(__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--name", default="profile_step")
    parser.add_argument("train", nargs="*", help="after --: options of nanochat train")
    options = parser.parse_args()
    try:
        flags = read_flags("train", options.train)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    given = gather_options(options_of(TrainConfig), flags, {}, None)
    return options, TrainConfig(**{"mode": "tensor", "data": str(options.text), **given})


def name_kernels() -> None:
    """Give the calls of our kernels a name in the profile."""
    for name in kernels.__all__:
        function = getattr(kernels, name)
        if callable(function):
            setattr(kernels, name, _named(name, function))


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        with record_function(f"nck {name}"):
            return function(*arguments, **options)

    return called


def profiled(step: Callable[[int], None], steps: int, device: str) -> list[dict[str, Any]]:
    """Return the own milliseconds per step of every operation, the largest first."""
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        for number in range(steps):
            step(number)
    rows = []
    for event in found.key_averages():
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        row = {"name": event.key, "calls": event.count / steps, "ms": own / 1e3 / steps}
        if row["ms"] >= 0.01:
            rows.append(row)
    return sorted(rows, key=lambda row: -row["ms"])


def product_peak(dtype: str, device: str) -> float:
    """Measure the operations per second of a large product."""
    a = torch.randn(PEAK_SIZE, PEAK_SIZE, dtype=getattr(torch, dtype), device=device)

    def run() -> None:
        torch.mm(a, a)
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(5):
        run()
    best = min(seconds(run) for _ in range(30))
    return float(2 * PEAK_SIZE**3 / best)


def flops(config: TrainConfig, vocab_size: int) -> float:
    """Count the operations of one step, forward and backward."""
    tokens = config.batch_size * config.grad_accum * config.block_size
    specs = parameter_specs(config, vocab_size)
    weights = sum(s.shape[0] * s.shape[1] for s in specs if s.group != "embedding")
    attention = config.n_layer * config.n_embd * config.block_size
    return 6.0 * tokens * weights + 12.0 * tokens * attention


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def report(record: dict[str, Any]) -> None:
    print(
        f"step {record['step_ms']:.2f} ms (best {record['best_ms']:.2f}),"
        f" {record['gflop']:.2f} GFLOP, {100 * record['of_peak']:.0f} % of a large product's rate,"
        f" {record['peak_gflop_s']:.0f} GFLOP/s"
    )
    for row in record["parts"][:25]:
        print(f"{row['ms']:8.3f} ms {row['calls']:7.1f} ×  {row['name'][:70]}")


if __name__ == "__main__":
    main()
