"""`--final-on-all`: a new run on all text of another run, with what that run chose by validation.

Owns the config of the new run: the options of the other run without a validation part, as many
readings of the text as led to its best step, and its share of the counts. The data, the tokenizer
and the counts are made from the whole text as in any run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.config.option import as_text, shown
from nanochat.config.options import BEST, TrainConfig, merged_config, options_of
from nanochat.config.share import FITTED, share_words
from nanochat.errors import CheckpointError, ConfigError
from nanochat.output.terminal import Terminal
from nanochat.runs.checkpoint import Checkpoint, read_best
from nanochat.runs.load import read_checkpoint
from nanochat.runs.own_text import check_own_text

__all__ = ["Chosen", "chosen_by"]

# May be given: they change neither the model nor what was chosen. So may options of the output.
_FREE = frozenset({"steps", "seed", "threads", "device"})
_NOT_REPEATED = ("out", "resume", "final_on_all", "time_budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The config of the new run, and the best checkpoint of the run that chose it."""

    config: TrainConfig
    checkpoint: Checkpoint
    val_loss: float | None  # of the checkpoint; None: not known

    def record(self) -> dict[str, Any]:
        """Return what the new run keeps about the other one."""
        return {
            "path": str(self.checkpoint.path),
            "step": self.checkpoint.trainer.step,
            "val_loss": self.val_loss,
            "split_sha256": self.checkpoint.data["split_sha256"],
        }

    def __str__(self) -> str:
        config, step = self.config, self.checkpoint.trainer.step
        words = f"training on all text of {self.checkpoint.path.parent.parent}"
        if config.model_kind == "ngram":
            return words
        words += f": {config.steps:,} steps for its best {step:,}"
        mixes = config.ngram_order != 0 and config.ngram_share != FITTED
        return words + (f", share of the counts {config.ngram_share}" if mixes else "")


def chosen_by(requested: TrainConfig, terminal: Terminal) -> Chosen:
    """Return the config of a run on all text of the run that `final_on_all` names.

    Raises CheckpointError if that run is missing or damaged, ConfigError if it chose nothing by
    validation or a given option contradicts it.
    """
    checkpoint, saved, skipped = read_checkpoint(BEST, str(requested.final_on_all))
    for reason in skipped:
        terminal.warn(reason)
    if "data" not in requested.given:
        check_own_text(checkpoint, "name it again with --data")
    data = checkpoint.data
    if data["val_source"] != "val":
        raise ConfigError(
            "final_on_all needs a run with a validation part, got"
            f" {checkpoint.path.parent.parent}, which trained on all of its text"
        )
    known = options_of(TrainConfig)
    given = {name: getattr(requested, name) for name in requested.given}
    for name in sorted(given.keys() - _FREE):
        if not known[name].output and given[name] != getattr(saved, name):
            raise ConfigError(
                f"final_on_all keeps {name} {as_text(getattr(saved, name))} of {checkpoint.path},"
                f" got {shown(given[name])}; leave {name} out"
            )
    options = {name: getattr(saved, name) for name in known if name not in _NOT_REPEATED}
    options["val_fraction"] = 0.0
    if saved.model_kind != "ngram":
        options |= _of_training(checkpoint, data)
    if saved.model_kind == "mini-gpt" and saved.ngram_order:
        options["ngram_share"] = share_words(*checkpoint.state.share)
    del given["final_on_all"]
    config = merged_config(options, given)
    return Chosen(config=config, checkpoint=checkpoint, val_loss=_loss_of(checkpoint))


def _loss_of(checkpoint: Checkpoint) -> float | None:
    """Return the validation loss of a checkpoint if the run marks it as its best."""
    try:
        mark = read_best(checkpoint.path.parent)
    except CheckpointError:
        return None
    return mark.val_loss if mark.step == checkpoint.trainer.step else None


def _of_training(checkpoint: Checkpoint, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a schedule that reads the longer text as often as the best step had.

    A schedule that a time budget has recorded ends at other steps, so its shape is used instead.
    """
    growth = 1 + data["val_tokens"] / max(data["train_tokens"], 1)
    steps = round(checkpoint.trainer.step * growth)
    return {"steps": steps, "schedule_points": "", "patience": 0, "eval_every": 0}
