"""The model that `--preset auto` chooses for a text.

`python -m bench.choices.texts` compares the choice with every preset on many kinds of text. Its
record (bench/results/choices/texts.json) has runs of 10 seconds on one core, which show what small
presets reach. Dropout, `lr` and the vocabulary of 4,096 pieces are not measured by it yet. The rule
reads the training part only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat.config.presets import PRESETS
from nanochat.system.wording import counted

__all__ = ["Choice", "TextFacts", "choices_for"]

SHORT_DOCUMENT = 24  # characters on average, as words and names have; proverbs have more
LARGE_ALPHABET = 400  # characters, as in Chinese and Japanese: most of them are rare
SMALL_TEXT = 500_000  # bytes; in a shorter text the word pieces of `small` are too rare
PAGES = 20_000  # bytes: a few pages, of which even `nano` is too much
SOME_READINGS = 4, 8  # of a small text: the least and most that `nano` needs with dropout
MANY_READINGS = 20, 32  # and without hashed n-grams


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """What the rule reads of the training part of a text."""

    size: int  # bytes in UTF-8
    characters: int
    document: float  # characters of a document, on average
    alphabet: int  # different characters

    def __str__(self) -> str:
        sizes = ((1e6, f"{self.size / 1e6:.1f} MB"), (1e3, f"{self.size / 1e3:.0f} kB"))
        amount = next((text for least, text in sizes if self.size >= least), None)
        amount = amount or counted(self.size, "byte")
        kind = "short documents" if self.document < SHORT_DOCUMENT else "running text"
        if self.alphabet < LARGE_ALPHABET:
            return f"{amount} of {kind}"
        return f"{amount} of {kind} in {self.alphabet:,} different characters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A preset, with changed defaults, that is worth its time from a number of steps on."""

    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    least_steps: int = 0
    most_tokens: int | None = None  # to train on; from more, the model learns the text by heart

    def __str__(self) -> str:
        changed = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"preset {self.preset}" + (f" ({changed})" if changed else "")


def choices_for(facts: TextFacts, mode: str) -> tuple[Choice, ...]:
    """Return what fits a text on an engine, the largest model first.

    Without a time budget the first one is trained. With one, it is the first whose least_steps fit.
    """
    is_short = facts.document < SHORT_DOCUMENT
    if mode == "scalar":
        return (Choice(preset="pico", options={} if is_short else {"block_size": 32}),)
    if facts.alphabet >= LARGE_ALPHABET:
        return _of_large_alphabet(facts)
    if is_short:
        if facts.size >= SMALL_TEXT:
            return (Choice(preset="nano"),)
        return Choice(preset="mini", least_steps=200), Choice(preset="pico")
    if facts.size >= SMALL_TEXT:
        return Choice(preset="small", least_steps=300), Choice(preset="nano")
    if facts.size < PAGES:
        return _PICO
    return _of_small_text(facts)


# With twice the context a step takes more than twice as long.
_PICO = (Choice(preset="pico", options={"block_size": 32}, least_steps=200), Choice(preset="pico"))


def _of_large_alphabet(facts: TextFacts) -> tuple[Choice, ...]:
    """Return choices for a text whose characters say as much as short words do."""
    if facts.size < SMALL_TEXT:  # word pieces would be rarer than the characters
        return _PICO
    return Choice(preset="small", options={"vocab_size": 4096}, least_steps=300), *_PICO


def _of_small_text(facts: TextFacts) -> tuple[Choice, ...]:
    """Return `nano` in forms that can read a small text more and more often.

    The hashed n-grams of `nano` learn fast, and soon know a small text by heart. Without them a
    model is better after many readings, and worse after few.
    """
    options = {"dropout": 0.3, "lr": 2e-3}
    return (
        _nano(facts, {**options, "ngram_rows": 0}, MANY_READINGS),
        _nano(facts, options, SOME_READINGS),
        Choice(preset="nano"),
    )


def _nano(facts: TextFacts, options: Mapping[str, Any], readings: tuple[int, int]) -> Choice:
    """Return `nano` with options that suit a number of readings of the text, from least to most."""
    nano = PRESETS["nano"]
    least, most = readings
    step_tokens = nano["batch_size"] * nano["block_size"]
    return Choice(
        preset="nano",
        options=options,
        least_steps=math.ceil(least * facts.characters / step_tokens),
        most_tokens=most * facts.characters,
    )
