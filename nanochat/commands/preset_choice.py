"""`--preset auto`: from a text that was read to the options of the model that it gets.

The rule itself is in config/preset_choice.py. A time budget chooses among the same presets, by the
steps that they can take (time_budget.py).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Mapping
from typing import Any

from nanochat.config.engine_choice import LINE_CORPORA
from nanochat.config.options import TrainConfig, merged_config, preset_defaults
from nanochat.config.preset_choice import (
    LARGE_ALPHABET,
    LEAST_STEPS,
    PAGES,
    SHORT_DOCUMENT,
    Choice,
    TextFacts,
    choices_for,
)
from nanochat.config.presets import PORTABLE, PORTABLE_PIECES
from nanochat.data.dataset import SplitText, text_facts
from nanochat.errors import ConfigError

__all__ = [
    "choices_of",
    "chosen_config",
    "counts_alone",
    "most_steps",
    "needs_text",
    "with_chosen_preset",
]


# With portable: a text of fewer bytes gets few pieces, because each of many would be too rare.
_ENOUGH_FOR_PIECES, _FEW_PIECES = 75_000, 384


def needs_text(config: TrainConfig) -> bool:
    """Return whether a config without a time budget gets its preset from the text.

    A registry corpus of short documents that mode auto trains on the scalar engine has its preset.
    """
    is_auto = config.mode == "scalar" and "mode" not in config.given and _has_torch()
    # Exact runs may read long documents, and so may lines of another text.
    is_known = is_auto and config.numerics != "exact" and set(config.data) <= set(LINE_CORPORA)
    can_run = config.mode == "scalar" or _has_torch()
    return _is_open(config) and can_run and not is_known


def _is_open(config: TrainConfig) -> bool:
    return "preset" not in config.given and config.model_kind == "mini-gpt"


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def choices_of(config: TrainConfig, text: SplitText) -> list[tuple[Choice, str]]:
    """Return what fits the text, the largest model first, each with its reason in words.

    The options of a choice are those that are not given. A given preset is the only choice, without
    a reason.
    """
    if not _is_open(config):
        return [(Choice(preset=config.preset), "")]
    facts = text_facts(text)
    choices = [
        _left_open(_with_pieces(choice, facts) if config.portable else choice, config)
        for choice in choices_for(facts, _mode(config, facts))
    ]
    accepted = [choice for choice in choices if _accepts(config, choice)]
    return [(choice, f"{choice}: {facts}") for choice in accepted or choices]


def counts_alone(config: TrainConfig) -> TrainConfig | None:
    """Return the config of counts without a network, for a text that has no time for one.

    None if a preset, a model or options of a network were given.
    """
    if not _is_open(config):
        return None
    given = {name: getattr(config, name) for name in config.given - {"model_kind", "steps"}}
    try:
        return chosen_config(config, Choice(preset="ngram"), given)
    except ConfigError:
        return None


def _accepts(config: TrainConfig, choice: Choice) -> bool:
    """Return whether the given options can be trained with a choice."""
    try:
        chosen_config(config, choice, {name: getattr(config, name) for name in config.given})
    except ConfigError:
        return False
    return True


def _mode(config: TrainConfig, facts: TextFacts) -> str:
    """Return the engine that the choice is for.

    Torch is worth its start under a time budget, and for lines that are longer than words.
    """
    if not _has_torch():
        return "scalar"
    if "mode" in config.given or config.numerics == "exact":
        return config.mode
    is_long = facts.document >= SHORT_DOCUMENT
    return "tensor" if config.time_budget is not None or is_long else config.mode


def _with_pieces(choice: Choice, facts: TextFacts) -> Choice:
    """Return a choice for a portable model, which has word pieces in place of tables."""
    if choice.preset not in PORTABLE_PIECES:
        return choice
    # Pieces would be single characters or parts of one, or hardly occur.
    if facts.alphabet >= LARGE_ALPHABET or facts.size < PAGES:
        return dataclasses.replace(choice, options={**choice.options, "tokenizer": "char"})
    # With pieces, a model takes more readings to learn a text by heart, and the best step is kept.
    options = {**choice.options, **PORTABLE_PIECES[choice.preset]}
    if facts.size < _ENOUGH_FOR_PIECES:
        options["vocab_size"] = _FEW_PIECES
    return dataclasses.replace(choice, options=options, most_tokens=None)


def _left_open(choice: Choice, config: TrainConfig) -> Choice:
    """Return a choice without the options that are given."""
    given = set(config.given) | (PORTABLE.keys() if config.portable else set())
    if "tokenizer" in given:  # vocabulary and tokens of the choice are those of the preset's
        given.add("vocab_size")
        choice = dataclasses.replace(choice, most_tokens=None)
    options = {name: value for name, value in choice.options.items() if name not in given}
    return dataclasses.replace(choice, options=options)


def chosen_config(config: TrainConfig, choice: Choice, given: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a choice for the text of `config`, with the given options."""
    # A preset may name another text, for a run that names none.
    options = {"data": config.data, "preset": choice.preset, **choice.options}
    if _is_open(config) and "n_embd" in given and "n_head" not in given:
        options["n_head"] = _heads(preset_defaults(choice.preset, given) | options | dict(given))
    return merged_config(options, given)


def _heads(options: Mapping[str, Any]) -> int:
    """Return the largest number of heads up to that of the options which suits their n_embd."""
    parts = 2 if options["positions"] == "rope" else 1  # that a head is divided into
    most, n_embd = options["n_head"], options["n_embd"]
    return next((heads for heads in range(most, 0, -1) if n_embd % (parts * heads) == 0), 1)


def most_steps(choice: Choice, config: TrainConfig) -> int | None:
    """Return the steps of the config after which more would make the model of a choice worse."""
    if choice.most_tokens is None:
        return None
    step_tokens = config.batch_size * config.grad_accum * min(config.block_size, choice.row_tokens)
    return max(math.ceil(choice.most_tokens / step_tokens), LEAST_STEPS)


def with_chosen_preset(config: TrainConfig, text: SplitText) -> tuple[TrainConfig, str]:
    """Return the config with the first choice for its text that has enough steps, and the choice in
    words."""
    given = {name: getattr(config, name) for name in config.given}
    configs = (
        (choice, reason, chosen_config(config, choice, given))
        for choice, reason in choices_of(config, text)
    )
    choice, reason, chosen = next(
        found for found in configs if found[2].steps >= found[0].least_steps
    )
    most = most_steps(choice, chosen)
    if most is not None and most < chosen.steps and "steps" not in given:
        chosen = chosen_config(config, choice, {**given, "steps": most})
    return chosen, reason
