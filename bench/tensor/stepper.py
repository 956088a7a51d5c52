"""A timed step of the tensor engine, which the benchmarks of two options compare in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from nanochat.config.options import TrainConfig
from nanochat.data.dataset import Dataset
from nanochat.engines import build_engine
from nanochat.training.loop import step_settings

__all__ = ["STEPS", "stepper"]

STEPS = 20


def stepper(config: TrainConfig, dataset: Dataset) -> Callable[[], float]:
    """Return a function that takes STEPS steps and returns their median in ms."""
    batcher = dataset.batcher(config)
    engine = build_engine(config, dataset.tokenizer.vocab_size, config.block_size)

    def run() -> float:
        times = []
        for step in range(STEPS):
            began = time.perf_counter()
            engine.step(batcher.step(step), step_settings(config, step)).read()
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e3

    run()
    return run
