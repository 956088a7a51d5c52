"""The model that `--preset auto` chooses for a text.

`python -m bench.choices.texts` compares the choice with every preset on many kinds of text. Its
record is bench/results/choices/texts.json. `python -m bench.choices.regularization` changes the
dropout and the number of readings of small texts. The rule reads the training part only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nanochat.config.presets import PRESETS
from nanochat.system.wording import amount

__all__ = ["LARGE_ALPHABET", "PAGES", "Choice", "TextFacts", "choices_for"]

SHORT_DOCUMENT = 24  # characters on average, as words and names have; proverbs have more
LARGE_ALPHABET = 400  # characters, as in Chinese and Japanese: most of them are rare
SMALL_TEXT = 500_000  # bytes; a longer text is not soon learned by heart
PAGES = 20_000  # bytes: a few pages

# Readings of a small text, at least and at most: with more, the model becomes worse.
WITH_DROPOUT = 12  # `nano`, at most
OF_PAGES = 4, 20  # `nano` with more dropout
IN_CHINESE = 6, 10  # the same in Chinese or Japanese
OF_SHORT_DOCUMENTS = 6  # `mini` or `pico`, at most
OF_PICO = 10  # on the scalar engine, which has no dropout, at most
OF_PICO_IN_CHINESE = 4  # at most
LEAST_STEPS = 100  # of a bounded run; with fewer, a model hardly learns


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """What the rule reads of the training part of a text."""

    size: int  # bytes in UTF-8
    characters: int
    document: float  # characters of a document, on average
    alphabet: int  # different characters

    def __str__(self) -> str:
        kind = "short training documents" if self.document < SHORT_DOCUMENT else "training text"
        words = f"{amount(self.size)} of {kind}"
        if self.alphabet < LARGE_ALPHABET:
            return words
        return f"{words} in {self.alphabet:,} different characters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A preset, with changed defaults, that is worth its time from a number of steps on."""

    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    least_steps: int = 0
    most_tokens: int | None = None  # to train on; from more, the model learns the text by heart
    row_tokens: float = math.inf  # of a row of a batch that holds one document

    def __str__(self) -> str:
        changed = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"preset {self.preset}" + (f" ({changed})" if changed else "")


def choices_for(facts: TextFacts, mode: str) -> tuple[Choice, ...]:
    """Return what fits a text on an engine, the largest model first.

    The first one is trained whose least_steps fit: into the steps of its preset, or a time budget.
    """
    is_short = facts.document < SHORT_DOCUMENT
    is_small = facts.size < SMALL_TEXT
    if mode == "scalar":
        most = OF_SHORT_DOCUMENTS if is_short else OF_PICO if facts.size < PAGES else None
        return (_pico(facts, most=most if is_small else None),)
    if facts.alphabet >= LARGE_ALPHABET:
        return _of_short_chinese(facts) if is_small else _of_long_chinese(facts)
    if is_short:
        return _of_few_words(facts) if is_small else (Choice(preset="nano"),)
    if facts.size < PAGES:
        return _nano(facts, OF_PAGES, dropout=0.5, hash_embed_rows=0), _pico(facts, most=OF_PICO)
    if not is_small:
        return (Choice(preset="small"),)
    # The hashed n-grams of `nano` learn fast, and soon know a small text by heart. Word pieces
    # would be too rare, and counts of long character n-grams predict better than counts of pieces.
    return (_nano(facts, (0, WITH_DROPOUT), dropout=0.3, hash_embed_rows=0),)


def _of_long_chinese(facts: TextFacts) -> tuple[Choice, ...]:
    """Return choices for a text whose characters say as much as short words do."""
    # With twice the context a step takes more than twice as long.
    long = Choice(preset="pico", options={"block_size": 32}, least_steps=600)
    pieces = Choice(preset="small", options={"vocab_size": 4096}, least_steps=200)
    return pieces, long, Choice(preset="pico")


def _of_short_chinese(facts: TextFacts) -> tuple[Choice, ...]:
    """Return choices for such a text in which word pieces would be rarer than characters."""
    options = {"dropout": 0.5, "hash_embed_rows": 0, "prev_token_tables": 0}
    return _nano(facts, IN_CHINESE, **options), _pico(facts, most=OF_PICO_IN_CHINESE)


def _of_few_words(facts: TextFacts) -> tuple[Choice, ...]:
    pico = _pico(facts, most=OF_SHORT_DOCUMENTS)
    options = {"prev_token_tables": 3, "weight_decay": 0.5}
    return replace(pico, preset="mini", options=options, least_steps=200), pico


def _nano(facts: TextFacts, readings: tuple[int, int], **options: Any) -> Choice:
    """Return `nano` with options that suit a number of readings of the text, from least to most."""
    nano = PRESETS["nano"]
    least, most = readings
    step_tokens = nano["batch_size"] * nano["block_size"]
    return Choice(
        preset="nano",
        options={**options, "lr": 2e-3},
        least_steps=math.ceil(least * facts.characters / step_tokens) if least else 0,
        most_tokens=most * facts.characters,
    )


def _pico(facts: TextFacts, *, most: int | None) -> Choice:
    """Return `pico` for at most a number of readings, with the context that documents need."""
    is_short = facts.document < SHORT_DOCUMENT
    return Choice(
        preset="pico",
        options={} if is_short or facts.alphabet >= LARGE_ALPHABET else {"block_size": 32},
        most_tokens=None if most is None else most * facts.characters,
        row_tokens=facts.document + 1,  # one for the end
    )
