"""`--preset auto`: from a text that was read to the options of the model that it gets.

The rule itself is in config/preset_choice.py. A time budget chooses among the same presets, by the
steps that they can take (time_budget.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from nanochat.config.options import TrainConfig
from nanochat.config.preset_choice import Choice, choices_for
from nanochat.config.presets import PRESETS
from nanochat.data.dataset import SplitText, text_facts

__all__ = ["choices_of", "chosen_options", "in_words", "needs_text", "with_chosen_preset"]


def needs_text(config: TrainConfig) -> bool:
    """Return whether a config without a time budget gets its preset from the text.

    A corpus of short documents that mode auto trains on the scalar engine has its preset already.
    """
    is_known = config.mode == "scalar" and "mode" not in config.given and _has_torch()
    can_run = config.mode == "scalar" or _has_torch()
    return _is_open(config) and can_run and not is_known


def _is_open(config: TrainConfig) -> bool:
    return "preset" not in config.given and config.model_kind == "mini-gpt"


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def choices_of(config: TrainConfig, text: SplitText) -> tuple[Choice, ...]:
    """Return what fits the text, the largest model first; a given preset is the only choice."""
    if not _is_open(config):
        return (Choice(preset=config.preset),)
    return choices_for(text_facts(text), _mode(config))


def _mode(config: TrainConfig) -> str:
    """Return the engine that the choice is for. Under a time budget torch is worth its start."""
    if not _has_torch():
        return "scalar"
    if "mode" in config.given or config.time_budget is None:
        return config.mode
    return "tensor"


def chosen_options(choice: Choice, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a choice that the given ones leave open."""
    options = {"preset": choice.preset, **choice.options}
    if "tokenizer" in given:
        options.pop("vocab_size", None)  # it is for the preset's tokenizer
    if "n_embd" in given and "n_head" not in given:
        options["n_head"] = _heads(given["n_embd"], PRESETS[choice.preset]["n_head"])
    return options


def _heads(n_embd: int, most: int) -> int:
    """Return the largest number of heads up to `most` whose size is a whole and even number."""
    return next((heads for heads in range(most, 0, -1) if n_embd % (2 * heads) == 0), 1)


def in_words(choice: Choice, text: SplitText) -> str:
    return f"{choice}: {text_facts(text)}"


def with_chosen_preset(config: TrainConfig, text: SplitText) -> tuple[TrainConfig, str]:
    """Return the config with the first choice for its text, and the choice in words."""
    given = {name: getattr(config, name) for name in config.given}
    choice = choices_of(config, text)[0]
    chosen = TrainConfig(**{**chosen_options(choice, given), **given})
    return chosen, in_words(choice, text)
