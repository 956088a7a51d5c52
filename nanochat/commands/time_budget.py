"""`--time-budget`: the preset, batch and steps that fit a time, from steps timed on this machine.

The choice is written into the config: the run can be repeated and resumed without a clock. The
presets themselves are in config/presets.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.config.options import TrainConfig, budget_seconds
from nanochat.data.dataset import Dataset, load_dataset
from nanochat.engines import build_engine, resolve_hardware
from nanochat.errors import ConfigError
from nanochat.sampling.generate import generate, prompt_tokens, sampling_settings
from nanochat.training.engine import Engine
from nanochat.training.loop import step_settings

__all__ = ["LADDERS", "Fit", "fit_to_budget"]

# Presets for long documents, for short documents and for the scalar engine, the largest first, each
# with the number of steps from which it beats the next despite its slower steps.
LADDERS: Mapping[str, tuple[tuple[str, int], ...]] = {
    "long": (("small", 300), ("nano", 0)),
    "short": (("mini", 400), ("pico", 0)),
    "scalar": (("pico", 0),),
}

SMALLEST_TEXT = 500_000  # tokens; in a shorter text the word pieces of `small` are too rare

LARGEST_BATCH = 16  # times the preset's batch
FREE_ROWS = 1.25  # the batch is doubled while its step takes at most this many times as long
FILES_S = 0.3  # config, checkpoint, plot and the last lines


@dataclass(frozen=True, slots=True)
class Fit:
    """A config that fits a time, and the measured times behind it, in seconds."""

    config: TrainConfig
    step_s: float
    around_s: float  # evaluations, samples and files

    def __str__(self) -> str:
        config = self.config
        return (
            f"preset {config.preset}, {config.steps:,} steps of {self.step_s * 1e3:.3g} ms and"
            f" {config.batch_size} rows; {self.around_s:.1f} s for evaluation, samples and files"
        )


def fit_to_budget(
    config: TrainConfig,
    started: float,  # on the clock: when the budget began
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Fit:
    """Return the largest preset of the text's ladder that has enough steps in config.time_budget.

    Given options override the presets; a given preset is the only candidate. Raises ConfigError
    if nothing fits.
    """
    budget = budget_seconds(str(config.time_budget))
    given = {name: getattr(config, name) for name in config.given - {"time_budget", "steps"}}
    dataset = load_dataset(TrainConfig(**given))
    ladder = LADDERS["long" if dataset.batching == "windows" else "short"]
    if ladder is LADDERS["long"] and len(dataset.train.tokens) < SMALLEST_TEXT:
        ladder = ladder[-1:]
    if given.get("mode") == "scalar" or importlib.util.find_spec("torch") is None:
        ladder = LADDERS["scalar"]
    if "preset" in given or config.model_kind != "mini-gpt":
        ladder = ((config.preset, 0),)
    for preset, least in ladder:
        trial = _Trial(TrainConfig(**{**given, "preset": preset}), dataset, clock)
        steps = trial.steps_in(started + budget, at_least=least)
        if steps >= max(least, 1):
            return trial.fit(steps)
    spent = clock() - started + trial.around_s
    raise ConfigError(
        f"time_budget must leave time for a step, got {config.time_budget}; start, evaluation and"
        f" samples take {spent:.1f} s, a step takes {trial.step_s:.3g} s"
    )


class _Trial:
    """A preset on this text and machine: an engine that is timed, then discarded."""

    def __init__(self, config: TrainConfig, dataset: Dataset, clock: Callable[[], float]) -> None:
        self._given = {name: getattr(config, name) for name in config.given}
        self._options: dict[str, Any] = {}  # chosen here, in addition to the given options
        config = resolve_hardware(config)
        self._config, self._dataset, self._clock = config, dataset, clock
        tokenizer = dataset.tokenizer
        began = clock()
        self._engine: Engine = build_engine(
            config, tokenizer.vocab_size, dataset.longest_segment(config.block_size)
        )  # fmt: skip
        self._build_s = clock() - began
        self.step_s = self.around_s = 0.0

    def steps_in(self, end: float, at_least: int) -> int:
        """Return how many steps, with all that follows them, end at `end` on the clock."""
        rows = self._config.batch_size
        self.step_s = self._step_s(rows, end)
        if self._clock() + self.step_s * at_least >= end:
            return 0
        self._enlarge_batch(end)
        self.around_s = self._build_s + 2 * self._evaluation_s() + self._samples_s() + FILES_S
        return int((end - self._clock() - self.around_s) / self.step_s)

    def fit(self, steps: int) -> Fit:
        options = {"eval_every": 0, **self._given, **self._options, "steps": steps}
        return Fit(TrainConfig(**options), self.step_s, self.around_s)

    def _enlarge_batch(self, end: float) -> None:
        """Take more rows per step while they cost little more time."""
        if {"batch_size", "grad_accum"} & self._given.keys():
            return
        for times in (2**k for k in range(1, LARGEST_BATCH.bit_length())):
            rows = self._config.batch_size * times
            step_s = self._step_s(rows, end)
            if step_s > self.step_s * FREE_ROWS:
                return
            self.step_s = step_s
            # The learning rate grows with the square root of the batch (Malladi et al. 2022).
            self._options = {"batch_size": rows, "lr": self._config.lr * times**0.5}

    def _step_s(self, rows: int, end: float) -> float:
        """Return the mean time of a few steps after the first two; of fewer if they are slow."""
        config = self._config
        batcher = self._dataset.batcher(dataclasses.replace(config, batch_size=rows))
        times: list[float] = []
        patience = (end - self._clock()) / 50
        while len(times) < 3 or (sum(times) < patience and len(times) < 100):
            began = self._clock()
            self._engine.step(batcher.step(len(times)), step_settings(config, 0)).read()
            times.append(self._clock() - began)
            if times[0] > patience * 5:
                break
        return statistics.mean(times[2:] or times)

    def _evaluation_s(self) -> float:
        batches = self._dataset.evaluation_set(self._config)
        timed = batches[:3]
        began = self._clock()
        for batch in timed:
            self._engine.token_losses(batch)
        return (self._clock() - began) / max(len(timed), 1) * len(batches)

    def _samples_s(self) -> float:
        config, tokenizer = self._config, self._dataset.tokenizer
        if config.num_samples == 0:
            return 0.0
        context = prompt_tokens(tokenizer, "", self._dataset.start, config.block_size)
        settings = sampling_settings(config)
        began = self._clock()
        generate(self._engine, tokenizer, context, settings, config.num_samples)
        return self._clock() - began
