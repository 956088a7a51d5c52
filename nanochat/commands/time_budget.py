"""`--time-budget`: the preset, batch and evaluations for a time, from steps timed on this machine.

The choice is written into the config. How many steps fit is decided while training, by
training/deadline.py. The presets themselves are in config/presets.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.commands.mixing import with_counts, with_placeholder
from nanochat.commands.preset_choice import choices_of, chosen_config, most_steps
from nanochat.config.options import RUNS_DIR, TrainConfig, budget_seconds, merged_config
from nanochat.config.preset_choice import Choice
from nanochat.data.dataset import (
    EVAL_TOKENS,
    Dataset,
    SplitText,
    load_dataset,
    read_text,
    token_options,
)
from nanochat.data.tokenizer import Tokenizer
from nanochat.engines import begin_import, build_engine, resolve_hardware
from nanochat.errors import ConfigError
from nanochat.model.model_file import ModelFile, changes_of
from nanochat.model.parameters import parameter_specs, table_entries
from nanochat.model.state import TrainerState
from nanochat.runs.checkpoint import save_checkpoint
from nanochat.sampling.generate import generate, prompt_tokens, sampling_settings
from nanochat.sampling.mixed import mixed_with
from nanochat.system.durable import output_error
from nanochat.training.deadline import MARGIN, Deadline, TimePlan, exit_s
from nanochat.training.engine import Engine
from nanochat.training.loop import step_settings

__all__ = ["Fit", "TooShort", "fit_to_budget"]

LARGEST_BATCH = 16  # times the preset's batch
FREE_ROWS = 1.25  # the batch is doubled while its step takes at most this many times as long

TRIAL_SHARE = 0.01  # of the budget, for the steps of one preset
BATCH_SHARE = 0.002  # of the budget, for the steps of one larger batch
BATCHES_SHARE = 0.02  # of the budget, after which no larger batch is tried
PAUSE_SHARE = 0.08  # of the budget, for evaluations and saves during training
FINAL_SHARE = 0.03  # of the budget, for a last evaluation of all validation text
SAMPLES_SHARE = 0.05  # of the budget, reserved for the samples at most
LEAST_EVAL_TOKENS = 1000  # in fewer, chance decides which evaluation is the best
EVALUATIONS = 20  # during training, if they fit into PAUSE_SHARE
COMPILE_BUDGET_S = 600  # torch.compile is chosen only from here on: it may take a minute
FILES_S = 0.1  # plot, result and the last lines, without what each step adds
LINE_S = 1e-5  # per step, to draw the loss curve
LEAST_FOR_TORCH_S = 6.0  # importing torch takes about two seconds
LARGEST_GAIN = 4  # of a larger preset, in multiplications per second
FEWEST_STEPS = 3  # that a budget must have time for


@dataclass(frozen=True, slots=True)
class Fit:
    """A config that fits a time, its text, and the measured times behind it, in seconds."""

    config: TrainConfig  # its steps are an estimate
    dataset: Dataset
    time_budget: str
    plan: TimePlan
    end: float  # on the clock
    clock: Callable[[], float] = time.perf_counter
    choice: str = ""  # of the preset by the text, in words; empty if the text did not decide

    def __str__(self) -> str:
        config, plan = self.config, self.plan
        is_enough = config.steps == plan.most_steps
        steps = f"{config.steps:,} steps" if is_enough else f"about {config.steps:,} steps"
        reason = ", enough for so little text" if is_enough else ""
        return (
            f"preset {config.preset}, {steps} of {plan.step_s * 1e3:.3g} ms and"
            f" {config.batch_size} rows{reason}; {plan.after_s:.1f} s reserved for the last"
            " evaluation, samples and files"
        )

    def deadline(self, config: TrainConfig) -> Deadline:
        """Return the deadline of a run of this fit, whose config is resolved now."""
        return Deadline(
            config, self.plan, time_budget=self.time_budget, end=self.end, clock=self.clock
        )  # fmt: skip


def fit_to_budget(
    config: TrainConfig,
    started: float,  # on the clock: when the budget began
    *,
    known: Tokenizer | None = None,  # of a trained model; None: the text's own
    extend: bool = False,  # add the text's new characters to `known`
    folder: Path | None = None,  # of a run that has copies of standard input and URLs
    text: SplitText | None = None,  # of this config, if it was read before
    own: ModelFile | None = None,  # of this config
    clock: Callable[[], float] = time.perf_counter,
) -> Fit:
    """Return the largest choice for the text that has enough steps in config.time_budget.

    Given options override the choice; a given preset is the only candidate. Raises TooShort if not
    even a few steps fit.
    """
    budget_s = budget_seconds(str(config.time_budget))
    given = {name: getattr(config, name) for name in config.given - {"time_budget", "steps"}}
    is_short = config.compile == "auto" and budget_s < COMPILE_BUDGET_S
    text = text or read_text(config, folder)
    datasets = _Datasets(text, known, extend)
    fitting: _Trial | None = None
    chosen = ""
    for choice, reason in reversed(choices_of(config, text)):
        if is_short:
            choice = dataclasses.replace(choice, options={**choice.options, "compile": "off"})
        candidate = chosen_config(config, choice, given)
        if fitting is not None and (
            fitting.most_steps_of(candidate) < choice.least_steps
            or (candidate.mode == "tensor" and not fitting.has_time_for_torch())
        ):
            break  # a larger preset is slower still
        begin_import(candidate)
        dataset = datasets.of(candidate)
        if fitting is None and (start_s := clock() - started) > budget_s:
            raise TooShort(config, 2 * start_s, f"the start took {start_s:.1f} s")
        trial = _Trial(candidate, choice, dataset, started, budget_s, clock, own)
        if fitting is not None and trial.steps < choice.least_steps:
            break
        fitting, chosen = trial, reason
    assert fitting is not None  # there is a choice for every text
    return dataclasses.replace(fitting.fit(config), choice=chosen)


class TooShort(ConfigError):
    """A time budget in which not even a few steps fit. Names the least that would do."""

    def __init__(self, config: TrainConfig, least_s: float, reason: str) -> None:
        super().__init__(
            f"time_budget must be at least about {math.ceil(least_s)}s for this text and machine,"
            f" got {config.time_budget}; {reason}"
        )
        self.reason = reason


class _Datasets:
    """The text as the presets see it, prepared once for all that read the same tokens."""

    def __init__(self, text: SplitText, known: Tokenizer | None, extend: bool) -> None:
        self._text, self._known, self._extend = text, known, extend
        self._prepared: dict[tuple[Any, ...], Dataset] = {}

    def of(self, config: TrainConfig) -> Dataset:
        key = token_options(config)
        dataset = self._prepared.get(key)
        if dataset is None:
            dataset = load_dataset(config, self._known, extend=self._extend, text=self._text)
            self._prepared[key] = dataset
        return dataset.rebatched(config)


class _Trial:
    """A preset on this text and machine: an engine that is timed, then discarded."""

    def __init__(
        self,
        config: TrainConfig,
        choice: Choice,  # its options are those that the user has not given
        dataset: Dataset,
        started: float,
        budget_s: float,
        clock: Callable[[], float],
        own: ModelFile | None,
    ) -> None:
        chosen = choice.options
        self._given = {name: getattr(config, name) for name in config.given - chosen.keys()}
        self._options = dict(chosen)  # and those chosen here
        self._most_steps = most_steps(choice, config)
        self._config, self._clock = resolve_hardware(config), clock
        self._plain = dataset  # is counted only for the preset that is trained
        self._dataset = with_placeholder(dataset, config)
        self._started, self._budget_s = started, budget_s
        began = clock()
        self._own = own
        self._engine: Engine = build_engine(
            self._config, dataset.tokenizer.vocab_size, dataset.longest_segment(config.block_size),
            own=own,
        )  # fmt: skip
        self._step_s = self._timed_steps(self._config.batch_size, TRIAL_SHARE)
        # The engine of the run is built again, and its first step is slow again.
        self._build_s = max(clock() - began - self._trial_s, 0.0)

    @property
    def steps(self) -> int:
        """The steps that would fit, if nothing but steps took time."""
        return int(self._left_s() / self._step_s) if self._step_s > 0 else 10**9

    def most_steps_of(self, larger: TrainConfig) -> float:
        """Return the most steps of a larger config that can fit, by its multiplications.

        The matrices of another preset are larger, so a processor may multiply faster.
        """
        vocab_size = self._dataset.tokenizer.vocab_size
        other_size = vocab_size if larger.tokenizer == self._config.tokenizer else larger.vocab_size
        times = _multiplications(larger, other_size, self._own)
        times /= _multiplications(self._config, vocab_size, self._own)
        gain = 1 if larger.preset == self._config.preset else LARGEST_GAIN
        return self.steps / max(times / gain, 1.0)

    def has_time_for_torch(self) -> bool:
        """Return whether the start of the other engine would leave most of the time."""
        return "torch" in sys.modules or self._left_s() > LEAST_FOR_TORCH_S

    def _left_s(self) -> float:
        return self._started + self._budget_s - self._clock()

    def fit(self, requested: TrainConfig) -> Fit:
        """Return the config of this preset for the time. Raises TooShort."""
        self._enlarge_batch()
        self._count()
        save_s = self._save_s()
        all_s, token_s = self._evaluation_s()
        eval_tokens = self._eval_tokens(all_s, token_s, save_s)
        evaluation_s = min(eval_tokens * token_s, all_s) if eval_tokens else all_s
        scores_all = all_s <= max(FINAL_SHARE * self._budget_s, evaluation_s)
        final_s = evaluation_s + (all_s if scores_all and eval_tokens else 0.0)
        samples_s = min(self._samples_s(), SAMPLES_SHARE * self._budget_s)
        # The best checkpoint may be read again, which takes about as long as saving it.
        after_s = final_s + 2 * save_s + samples_s + FILES_S + exit_s()
        before_s = self._build_s + evaluation_s
        left_s = self._left_s() - before_s - after_s - MARGIN * self._budget_s
        if left_s < FEWEST_STEPS * self._step_s:
            least_s = self._budget_s - left_s + FEWEST_STEPS * self._step_s
            start_s = self._budget_s - self._left_s()
            reason = f"the start took {start_s:.1f} s and a step takes {self._step_s:.3g} s"
            raise TooShort(requested, 1.3 * least_s, reason)
        pause_s = evaluation_s + save_s
        pauses = min(EVALUATIONS, int(PAUSE_SHARE * self._budget_s / max(pause_s, 1e-9)))
        paused_s = max(pauses - 1, 0) * pause_s
        steps = min(max(int((left_s - paused_s) / (self._step_s + LINE_S)), 1), 10**9)
        if self._most_steps is not None:
            steps = min(steps, self._most_steps)
        chosen = {
            **self._options, "eval_every": -(-steps // pauses) if pauses > 1 else 0,
            "eval_tokens": eval_tokens,
        }  # fmt: skip
        config = merged_config(chosen, {**self._given, "steps": steps})
        plan = TimePlan(
            step_s=self._step_s,
            pause_s=pause_s,
            eval_every=config.eval_every,
            after_s=after_s + LINE_S * steps,
            scores_all=scores_all,
            most_steps=self._most_steps,
        )
        end = self._started + self._budget_s
        return Fit(config, self._dataset, str(requested.time_budget), plan, end, self._clock)

    # --------------------------------------------------------------------------------- the timings

    def _timed_steps(self, rows: int, share: float) -> float:
        """Return the median time of the steps after the first that a share of the budget allows,
        but of one at least."""
        config = self._config.changed(batch_size=rows)
        batcher = self._dataset.batcher(config)
        times: list[float] = []
        allowed_s = share * self._budget_s
        began = self._clock()
        while len(times) < 2 or (sum(times[1:]) < allowed_s and len(times) < 100):
            begun = self._clock()
            self._engine.step(batcher.step(len(times)), step_settings(config, 0)).read()
            times.append(self._clock() - begun)
            if len(times) == 1 and times[0] > self._left_s() / 2:
                break  # a second step would leave no time for the run
        self._trial_s = self._clock() - began - (times[0] if len(times) > 1 else 0.0)
        return float(np.median(times[1:] or times))

    def _enlarge_batch(self) -> None:
        """Take more rows per step while they cost little more time."""
        if {"batch_size", "grad_accum"} & self._given.keys():
            return
        if self._left_s() < self._budget_s / 4:
            return  # the start was slow: the time is better used for training
        if self._most_steps is not None:
            return  # a small text need not be read faster
        began = self._clock()
        for times in (2**k for k in range(1, LARGEST_BATCH.bit_length())):
            if self._clock() - began > BATCHES_SHARE * self._budget_s:
                return
            rows = self._config.batch_size * times
            step_s = self._timed_steps(rows, BATCH_SHARE)
            if step_s > self._step_s * FREE_ROWS:
                return
            self._step_s = step_s
            # The learning rate grows with the square root of the batch (Malladi et al. 2022).
            self._options |= {"batch_size": rows, "lr": self._config.lr * times**0.5}

    def _count(self) -> None:
        """Count the n-grams, if the network is mixed with them, for about the steps that fit."""
        config = self._config.changed(**self._options)
        steps = min(self.steps, self._most_steps or self.steps)
        reads = steps * self._plain.step_pairs(self._plain.resolve(config))
        self._dataset = with_counts(self._plain, config, reads=reads)

    def _evaluation_s(self) -> tuple[float, float]:
        """Return the time to score all validation text, and the time per token."""
        few = self._config.changed(eval_tokens=3 * EVAL_TOKENS)
        times: list[float] = []
        targets = 0
        began = self._clock()
        batches = self._dataset.evaluation_set(few)  # looks up the probabilities of a long text
        made_s = self._clock() - began
        for batch in batches:
            if sum(times) > TRIAL_SHARE * self._budget_s:
                break
            began = self._clock()
            self._engine.token_losses(batch)
            times.append(self._clock() - began)
            targets += int((batch.targets >= 0).sum())
        if not targets:
            return 0.0, 0.0
        batch_s = float(np.median(times[1:] or times))  # the first may compile
        token_s = (batch_s * len(times) + made_s) / targets
        return token_s * max(self._dataset.val.token_count, targets), token_s

    def _eval_tokens(self, all_s: float, token_s: float, save_s: float) -> int:
        """Return the option eval_tokens: 0, for all validation text, if EVALUATIONS of it fit into
        PAUSE_SHARE, otherwise the number of tokens that does."""
        if "eval_tokens" in self._given:
            return self._config.eval_tokens
        allowed_s = PAUSE_SHARE * self._budget_s / EVALUATIONS
        allowed_s = max(allowed_s - save_s, allowed_s / 2)
        return 0 if all_s <= allowed_s else max(int(allowed_s / token_s), LEAST_EVAL_TOKENS)

    def _samples_s(self) -> float:
        """Return the time of the samples, from the first tokens of one set."""
        config, tokenizer = self._config, self._dataset.tokenizer
        if config.num_samples == 0:
            return 0.0
        context = prompt_tokens(tokenizer, "", self._dataset.start, config.block_size)
        model = mixed_with(self._engine, self._dataset.counts, config.threads)
        times = []
        for tokens in (1, 9):
            fewer = dataclasses.replace(
                config, max_new_tokens=min(tokens, config.max_new_tokens)
            )  # fmt: skip
            began = self._clock()
            generate(model, tokenizer, context, sampling_settings(fewer), config.num_samples)
            times.append(self._clock() - began)
        token_s = max(times[1] - times[0], 0.0) / 8
        return times[1] + token_s * max(config.max_new_tokens - 9, 0)

    def _save_s(self) -> float:
        """Return the time of a checkpoint on the disk of the run."""
        import tempfile  # most runs have no time budget

        config, dataset = self._config, self._dataset
        trainer = TrainerState(step=0, last_losses=[], tokens=0, elapsed_s=0.0, metrics_length=0)
        place = _existing_parent(Path(config.out or RUNS_DIR).absolute())
        began = self._clock()
        try:
            with tempfile.TemporaryDirectory(dir=place, prefix=".nanochat-") as folder:
                save_checkpoint(
                    Path(folder), config=config.to_dict(), tokenizer=dataset.tokenizer.to_dict(),
                    data=dataset.describe(), trainer=trainer, state=self._engine.state_dict(),
                )  # fmt: skip
                return self._clock() - began
        except OSError as error:
            raise output_error(place, error) from error


def _multiplications(config: TrainConfig, vocab_size: int, own: ModelFile | None) -> float:
    """Return the multiplications of a step's forward pass by matrices of weights."""
    changes = changes_of(own, config)
    entries = sum(rows * columns for rows, columns in (
        spec.shape for spec in parameter_specs(config, vocab_size, changes)
    ))  # fmt: skip
    used = entries - table_entries(config, vocab_size, changes)
    return used * config.batch_size * config.grad_accum * config.block_size


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in path.parents if os.path.isdir(folder))
