"""`--init-from`: a new run that starts from the weights and the tokenizer of another.

Owns what the new run keeps of its source, what may differ, and the weights that it starts with.
Schedule, optimizer state and text are those of a new run:

- The model, the tokenizer, the preset and the engine come from the source.
- The learning rates are a third of the preset's, or of the one that the rule of `--preset auto`
  chooses for the new text together with this preset.
- Dropout is what that rule chooses for the new text, not the source's.
- All other options are those of the preset.

A given option overrides each of these, unless it contradicts the source's model.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import as_text, shown
from nanochat.config.options import (
    ARCHITECTURE,
    BEST,
    PRESETS,
    TrainConfig,
    merged_config,
    options_of,
    preset_defaults,
)
from nanochat.config.preset_choice import Choice, choices_for
from nanochat.data.dataset import SplitText, text_facts
from nanochat.data.special_tokens import plain_tokenizer
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import ConfigError, UnsupportedModelKind, UnsupportedOption
from nanochat.model.model_file import ModelFile, changes_of
from nanochat.model.parameters import draw_matrix, parameter_specs
from nanochat.ngram.share import given_share
from nanochat.output.terminal import Terminal
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.load import read_checkpoint
from nanochat.training.engine import EngineState

__all__ = [
    "LR_FRACTION",
    "Source",
    "initialized_config",
    "leaves_dropout_to_text",
    "read_source",
    "regularized_config",
]

LR_FRACTION = 1 / 3  # of the preset's learning rates: the weights are near a minimum already
_RATES = ("lr", "matrix_lr", "head_lr")
# Options of the text that describe tokens and batches, not the text.
_NOT_OF_THE_TEXT = {"tokenizer", "vocab_size", "batching"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that a run starts from."""

    checkpoint: Checkpoint
    config: TrainConfig
    tokenizer: Tokenizer
    weights_sha256: str

    def record(self) -> dict[str, Any]:
        """Return what the new run keeps about its source."""
        return {
            "path": str(self.checkpoint.path),
            "step": self.checkpoint.trainer.step,
            "weights_sha256": self.weights_sha256,
        }

    def split_warning(self, config: TrainConfig, split_sha256: str) -> str | None:
        """Return a sentence if the new run validates on text that its source has trained on."""
        same_text = config.data == self.config.data
        if (
            not same_text
            or not config.val_fraction
            or split_sha256 == self.checkpoint.data["split_sha256"]
        ):
            return None
        return (
            f"the text is split differently than in {self.checkpoint.path}, which may have trained"
            " on what this run validates on; leave out seed and val_fraction to keep the split"
        )

    def initial_state(
        self,
        config: TrainConfig,
        tokenizer: Tokenizer,
        own: ModelFile | None = None,  # of the config
    ) -> EngineState:
        """Return the weights of the new run, with an empty optimizer state.

        `tokenizer` is the source's, or extends it. The rows of new tokens are those of a new model
        with the config's seed.
        """
        weights = dict(self.checkpoint.state.weights)
        old, new = self._places_of_rows(config, tokenizer)
        for spec in parameter_specs(config, tokenizer.vocab_size, changes_of(own, config)):
            saved = weights[spec.name]
            if _has_a_row_per_token(spec.name) and len(saved) != spec.shape[0]:
                drawn = draw_matrix(spec, config.seed).astype(saved.dtype)
                drawn[new] = saved[old]
                weights[spec.name] = drawn
            elif spec.name == "wpe":
                weights[spec.name] = _first_rows(saved, config.block_size)
        share = given_share(config.ngram_share)  # that of the source has other counts
        return EngineState(weights=weights, optimizer={}, share=share)

    def _places_of_rows(
        self, config: TrainConfig, tokenizer: Tokenizer
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows that the new run keeps, in the source's matrices and in the new ones.

        They are those of the text's tokens, the special tokens and, last, the share of the counts,
        if both runs have it.
        """
        text, rows = plain_tokenizer(self.tokenizer).vocab_size, self.tokenizer.vocab_size
        old = np.arange(rows)
        new = np.where(old < text, old, old + plain_tokenizer(tokenizer).vocab_size - text)
        if self.config.ngram_order and config.ngram_order:
            old, new = np.append(old, rows), np.append(new, tokenizer.vocab_size)
        return old, new


def _has_a_row_per_token(name: str) -> bool:
    return name == "lm_head" or (name.startswith("wte") and name != "wte_ngram")


def _first_rows(array: NDArray[np.floating], rows: int) -> NDArray[np.floating]:
    return np.ascontiguousarray(array[:rows])


def read_source(requested: TrainConfig, terminal: Terminal) -> Source:
    """Read the checkpoint that init_from names: RUN, RUN@last or RUN@STEP.

    Raises CheckpointError if it is missing, damaged or of another version, UnsupportedModelKind
    for a bigram.
    """
    run, which = _run_and_checkpoint(str(requested.init_from))
    checkpoint, config, skipped = read_checkpoint(which, run)
    for reason in skipped:
        terminal.warn(reason)
    if config.model_kind != "mini-gpt":
        raise UnsupportedModelKind(
            f"init_from does not support model_kind {config.model_kind}, got {checkpoint.path};"
            " name a run of model_kind mini-gpt, or train without init_from"
        )
    tokenizer = checkpoint.built_tokenizer()
    if requested.extend_vocabulary and tokenizer.kind != "char":
        raise UnsupportedOption(
            f"tokenizer {tokenizer.kind} of {checkpoint.path} does not support extend_vocabulary:"
            " it has an id for every byte, so it knows every text; leave it out"
        )
    return Source(
        checkpoint=checkpoint, config=config, tokenizer=tokenizer,
        weights_sha256=checkpoint.weights_sha256,
    )  # fmt: skip


def _run_and_checkpoint(text: str) -> tuple[str, str]:
    run, at, which = text.rpartition("@")
    if at and run and (which in (BEST, "last") or which.isdecimal()) and not os.path.exists(text):
        return run, which
    return text, BEST


# ------------------------------------------------------------------------------------- the options


def initialized_config(requested: TrainConfig, source: Source) -> TrainConfig:
    """Return the config of the new run: the source's model, and a new schedule.

    Options that are not given come from the source where they describe the model, or its text if
    no text is given, and otherwise from the source's preset. Raises ConfigError for a given option
    that contradicts the source.
    """
    saved, given = source.config, _given(requested)
    _refuse_contradictions(given, source)
    defaults = preset_defaults(saved.preset, given)
    options = {name: getattr(saved, name) for name in ARCHITECTURE}
    options["mode"] = saved.mode
    options |= {name: defaults[name] * LR_FRACTION for name in _RATES}
    if given.get("data", saved.data) == saved.data:
        # The same text: the same split too, or the new run validates on what the source has read.
        options |= {name: getattr(saved, name) for name in (*_text_options(), "seed")}
    return merged_config(options, {**given, "init_from": str(source.checkpoint.path)})


def leaves_dropout_to_text(config: TrainConfig, asked: Collection[str]) -> bool:
    """Return whether the text decides on options that `regularized_config` sets."""
    return config.mode == "tensor" and not {"dropout", "lr"} <= set(asked)


def regularized_config(
    config: TrainConfig,  # of initialized_config
    asked: Collection[str],  # names of the options that the user has given
    text: SplitText,
) -> tuple[TrainConfig, str]:
    """Return the config with the dropout and learning rate for its text, and these in words.

    They are those of the first choice of `--preset auto` for a new model of the source's preset. If
    the rule chooses smaller models only, a larger one needs at least their dropout. The steps that
    a choice asks for do not count, because trained weights overfit sooner than new ones. The words
    are empty if nothing changes.
    """
    facts = text_facts(text)
    choice = next((c for c in choices_for(facts, config.mode) if _is_choice_for(c, config)), None)
    if choice is None:
        return config, ""
    options = {}
    if "dropout" in choice.options:
        options["dropout"] = choice.options["dropout"]
    if "lr" in choice.options and choice.preset == config.preset:
        options["lr"] = choice.options["lr"] * LR_FRACTION
    options = {name: value for name, value in options.items() if name not in asked}
    if not options:
        return config, ""
    words = ", ".join(f"{name} {value:.3g}" for name, value in options.items())
    return config.changed(**options), f"{words}: {facts}"


def _is_choice_for(choice: Choice, config: TrainConfig) -> bool:
    """Return whether the choice is the config's preset, or a model that is at most as large."""
    preset = PRESETS[choice.preset]
    least = preset["n_layer"] * preset["n_embd"] ** 2
    return choice.preset == config.preset or config.n_layer * config.n_embd**2 >= least


def _given(requested: TrainConfig) -> Mapping[str, Any]:
    return {name: getattr(requested, name) for name in requested.given}


def _text_options() -> list[str]:
    known = options_of(TrainConfig)
    group = known["data"].group
    return [n for n in known if known[n].group == group and n not in _NOT_OF_THE_TEXT]


def _refuse_contradictions(given: Mapping[str, Any], source: Source) -> None:
    saved, path = source.config, source.checkpoint.path
    for name in sorted(ARCHITECTURE & given.keys()):
        kept, value = getattr(saved, name), given[name]
        if name == "block_size":
            # RoPE has no weights per position; learned positions can only become fewer.
            if saved.positions == "learned" and value > kept:
                raise ConfigError(
                    f"block_size must be at most {kept}, the learned positions of {path}, got"
                    f" {value}; lower it, or train a new model without init_from"
                )
        elif name == "model_file":
            continue  # own_model_of compares the text of the files, not their names
        elif value != kept:
            raise ConfigError(
                f"init_from keeps {name} {as_text(kept)} of {path}, got {shown(value)}; leave"
                f" {name} out, or train a new model without init_from"
            )
