"""The config and the dataset of a run, from the requested options and the text.

Owns what decides on the options that are not given: the checkpoint of a resumed run, the text, the
time budget and this machine. train.py runs the stages after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.commands.mixing import with_counts, with_share
from nanochat.commands.nonfinite import may_be_lowered
from nanochat.commands.preset_choice import counts_alone, needs_text, with_chosen_preset
from nanochat.commands.resuming import to_train_longer
from nanochat.config.engine_choice import choose_engine
from nanochat.config.option import AUTO
from nanochat.config.options import (
    ARCHITECTURE,
    TrainConfig,
    budget_seconds,
    merged_config,
    options_of,
)
from nanochat.data.dataset import CHAT, Dataset, SplitText, load_dataset, read_text, token_options
from nanochat.data.sources.locating import NotFound
from nanochat.data.tokenizer import Tokenizer
from nanochat.engines import begin_import, resolve_hardware
from nanochat.errors import ConfigError, CorpusError
from nanochat.model.model_file import ModelFile
from nanochat.ngram.baseline import reads_of_budget
from nanochat.output.terminal import Terminal
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.folder import RunFolder
from nanochat.system import processes
from nanochat.system.wording import as_word, counted
from nanochat.training.cadence import evaluation_plan

if TYPE_CHECKING:
    from nanochat.commands.time_budget import Fit

__all__ = [
    "RunText",
    "complete_config",
    "for_conversations",
    "regularized",
    "resolve",
    "same_batch",
]


@dataclass(frozen=True, kw_only=True)
class RunText:
    """What is known about the text, and what has been read of it."""

    known: Tokenizer | None  # of a trained model; None: the text's own
    extend: bool  # add the text's new characters to `known`
    folder: Path | None  # the run folder that has copies of standard input and URLs
    checkpoint: Checkpoint | None = None  # of the run to resume, with its counts
    read: SplitText | None = None  # by the choice of a preset
    prepared: Dataset | None = None  # by a time budget
    reads: float | None = None  # tokens, by which a long text is counted; None: those of all steps

    def load(self, config: TrainConfig) -> Dataset:
        dataset = load_dataset(
            config, self.known, extend=self.extend, folder=self.folder, text=self.of(config)
        )
        return with_counts(dataset, config, self.checkpoint, reads=self.reads)

    def of(self, config: TrainConfig) -> SplitText:
        """Return the text of a config as it was read, or read it now. Raises CorpusError."""
        if self.read is not None:
            return self.read
        try:
            return read_text(config, self.folder)
        except NotFound as error:
            if self.folder is None:  # the text was named now, not by a run
                raise
            raise CorpusError(f"{error}; if it was moved, name it with --data") from None


def complete_config(
    requested: TrainConfig,
    checkpoint: Checkpoint | None,
    text: RunText,
    started: float,
    terminal: Terminal,
    own: ModelFile | None = None,  # of the requested config
) -> tuple[TrainConfig, bool, Fit | None, RunText]:
    """Return the config with the checkpoint's options or those chosen for the text and the time
    budget, whether its mode is given rather than chosen by the rule of mode auto, the fit to the
    budget, and the text as far as the choice has read it."""
    complete = requested
    if checkpoint is not None:
        complete = _resumed_config(requested, checkpoint)
        if complete.batch_size != checkpoint.config["batch_size"] or (
            complete.grad_accum != checkpoint.config["grad_accum"]
        ):
            terminal.note(
                f"processes: {processes.world()} instead of {checkpoint.trainer.processes};"
                f" batch_size {complete.batch_size} and grad_accum {complete.grad_accum} keep the"
                " rows of each step"
            )
    if complete.time_budget is not None and complete.model_kind != "ngram":
        return _for_budget(complete, text, started, terminal, own)
    if complete.time_budget is not None:
        terminal.note(
            f"{complete.time_budget}: counted n-grams have no steps to choose; counting takes about"
            " a second per million tokens"
        )
        text = dataclasses.replace(text, reads=_reads(complete))
        complete = complete.changed(time_budget=None)
    mode_is_given = checkpoint is not None or "mode" in requested.given
    if checkpoint is not None or not needs_text(complete):
        complete.check_complete()
        return complete, mode_is_given, None, text
    read = text.of(complete)
    chosen, reason = with_chosen_preset(complete, read)
    terminal.note(reason)
    mode_is_given = mode_is_given or chosen.mode == "tensor"
    return chosen, mode_is_given, None, dataclasses.replace(text, read=read)


def _for_budget(
    complete: TrainConfig,
    text: RunText,
    started: float,
    terminal: Terminal,
    own: ModelFile | None,
) -> tuple[TrainConfig, bool, Fit | None, RunText]:
    """Return what `complete_config` returns for a time budget: a network that fits, or counts."""
    from nanochat.commands.time_budget import TooShort, fit_to_budget  # most runs have no budget

    if text.read is None:
        text = dataclasses.replace(text, read=text.of(complete))
    try:
        fit = fit_to_budget(
            complete, started, known=text.known, extend=text.extend, folder=text.folder,
            text=text.read, own=own,
        )  # fmt: skip
    except TooShort as short:
        counts = counts_alone(complete) if processes.world() == 1 else None
        if counts is None:
            raise
        terminal.note(
            f"{complete.time_budget}: too short for a network, as {short.reason}; counted n-grams"
            " alone"
        )
        text = dataclasses.replace(text, reads=_reads(complete))
        return counts.changed(time_budget=None), False, None, text
    if fit.choice:
        terminal.note(fit.choice)
    terminal.note(f"{complete.time_budget}: {fit}")
    # Its steps were timed in this mode.
    return fit.config, True, fit, dataclasses.replace(text, read=None, prepared=fit.dataset)


def _reads(config: TrainConfig) -> float:
    return reads_of_budget(budget_seconds(str(config.time_budget)))


def for_conversations(
    config: TrainConfig, asked: Collection[str], text: RunText
) -> tuple[TrainConfig, RunText]:
    """Return the config of a new run as it is for conversations, if its text is found to be some.

    Their option documents has other defaults, so the text is read before anything follows from
    them. Options in `asked` are the user's; the others may come from the run of init_from.
    """
    is_open = config.documents == "auto" and config.separator is None
    if not is_open or config.text_column is not None:
        return config, text
    read = text.of(config)
    if read.unit != CHAT:
        return config, dataclasses.replace(text, read=read)
    given = {name: getattr(config, name) for name in config.given}
    chosen = {**given, "batching": "auto"}
    by_user = {name: given[name] for name in given.keys() & set(asked)}
    complete = merged_config(chosen, {**by_user, "documents": CHAT})
    return complete, dataclasses.replace(text, read=read)


def regularized(
    config: TrainConfig, asked: Collection[str], text: RunText, terminal: Terminal
) -> tuple[TrainConfig, RunText]:
    """Return the config of a run that starts from another one with the dropout for its text, if
    the options leave it to the text, which is then read."""
    from nanochat.commands.init_from import leaves_dropout_to_text, regularized_config

    if not leaves_dropout_to_text(config, asked):
        return config, text
    read = text.of(config)
    config, reason = regularized_config(config, asked, read)
    if reason:
        terminal.note(reason)
    return config, dataclasses.replace(text, read=read)


def resolve(
    complete: TrainConfig, mode_is_given: bool, text: RunText
) -> tuple[TrainConfig, Dataset, str]:
    """Return the config for this machine and text, the text, and why mode auto took its engine.

    A text of very many characters makes a small model large, which is known only now.
    """
    begin_import(complete)
    if complete.device not in ("auto", "cpu"):
        resolve_hardware(complete)  # refuses a device that is not there before any work
    dataset = text.prepared or text.load(complete)
    resolved = resolve_hardware(complete)
    resolved = _with_evaluation_plan(dataset.resolve(resolved), dataset)
    resolved = with_share(resolved, dataset)
    if mode_is_given:
        return resolved, dataset, ""
    mode, reason = choose_engine(complete.to_dict(), dataset.tokenizer.vocab_size)
    if mode == complete.mode:
        return resolved, dataset, reason
    given = {name: getattr(complete, name) for name in complete.given}
    other = merged_config({**given, "mode": mode})
    other.check_complete()
    is_same = token_options(other) == token_options(complete)
    text = dataclasses.replace(text, prepared=dataset.rebatched(other) if is_same else None)
    resolved, dataset, _ = resolve(other, True, text)
    return resolved, dataset, reason


def _with_evaluation_plan(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    eval_every, eval_tokens = evaluation_plan(
        config.steps, dataset.step_tokens(config, processes.world()), dataset.val.pairs,
        eval_every=config.eval_every, eval_tokens=config.eval_tokens,
    )  # fmt: skip
    return config.changed(eval_every=eval_every, eval_tokens=eval_tokens)


def _resumed_config(requested: TrainConfig, checkpoint: Checkpoint) -> TrainConfig:
    """Return the saved config with the output options given now.

    Raises ConfigError for an option that a resume cannot change.
    """
    saved, given = dict(checkpoint.config), {}
    budget = checkpoint.trainer.budget or {}
    saved["time_budget"] = budget.get("time_budget")
    known = options_of(TrainConfig)
    for name in sorted(requested.given):
        value = getattr(requested, name)
        if (
            known[name].output
            or (name == "steps" and saved["lr_schedule"] == "constant" and value > saved["steps"])
            or may_be_lowered(RunFolder(checkpoint.run_folder), name, saved, value)
        ):
            given[name] = value
        elif value not in ("auto", AUTO, saved.get(name)):
            raise ConfigError(
                f"--resume keeps the saved {name} {saved.get(name)}, got {value};"
                f" {_instead_of_resuming(name, checkpoint, value)}"
            )
    saved |= same_batch(saved, checkpoint.trainer.processes, processes.world())
    return merged_config(saved, {**given, "resume": False, "time_budget": None})


def same_batch(saved: Mapping[str, Any], before: int | None, now: int) -> dict[str, int]:
    """Return the batch_size and grad_accum with which `now` processes take the same rows per step
    as `before` processes did; None: not known. Raises ConfigError if they cannot."""
    size, accumulated = int(saved["batch_size"]), int(saved["grad_accum"])
    if before in (None, now):
        return {}
    assert before is not None
    rows = size * accumulated * before
    own, left = divmod(rows, now)
    if left:
        fitting = [str(n) for n in range(1, min(rows, 1024) + 1) if rows % n == 0]
        raise ConfigError(
            f"--resume keeps the {rows} rows per step of {counted(before, 'process', 'processes')},"
            f" which {now} cannot share equally; use one of {', '.join(fitting)} processes"
        )
    size = next(n for n in range(min(size, own), 0, -1) if own % n == 0)
    return {"batch_size": size, "grad_accum": own // size}


def _instead_of_resuming(name: str, checkpoint: Checkpoint, value: Any) -> str:
    """Say how to get a run with another value of an option than the saved one."""
    saved = checkpoint.options
    if name == "steps":
        is_longer = value > saved.steps
        return to_train_longer(saved, checkpoint.run_folder) if is_longer else "leave it out"
    if name in ARCHITECTURE or saved.model_kind != "mini-gpt":
        return "leave it out, or start a new run"
    run = as_word(str(checkpoint.run_folder))
    return f"leave it out, or start a new run from these weights with --init-from {run}"
