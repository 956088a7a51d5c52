"""The rule of `--preset auto`: what each kind of text gets."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat import TrainConfig
from nanochat.config.preset_choice import (
    LARGE_ALPHABET,
    PAGES,
    SHORT_DOCUMENT,
    Choice,
    TextFacts,
    choices_for,
)
from nanochat.config.presets import CHOSEN_BY_TEXT

FACTS = st.builds(
    TextFacts,
    size=st.integers(1, 10**9),
    characters=st.integers(1, 10**9),
    document=st.floats(0, 1e9),
    alphabet=st.integers(1, 10**5),
)


NOVELS = st.builds(
    TextFacts,
    size=st.integers(PAGES, 10**9),
    characters=st.integers(1, 10**9),
    document=st.floats(SHORT_DOCUMENT, 1e9),
    alphabet=st.integers(1, LARGE_ALPHABET - 1),
)


@given(FACTS, st.sampled_from(["scalar", "tensor"]))
def test_every_text_gets_a_config_that_is_valid_on_its_engine(facts: TextFacts, mode: str) -> None:
    choices = choices_for(facts, mode)
    for choice in choices:
        config = TrainConfig(preset=choice.preset, mode=mode, **choice.options)
        assert config.preset == choice.preset
        assert choice.preset in CHOSEN_BY_TEXT
    assert choices[-1].least_steps == 0  # one is taken, however short the time
    assert all(choice.least_steps > 0 for choice in choices[:-1])


@given(FACTS)
def test_nano_takes_at_least_the_readings_that_make_it_worth_its_time(facts: TextFacts) -> None:
    choices = nonempty(choices_for(facts, "tensor"))
    limited = [c for c in choices if c.preset == "nano" and c.most_tokens is not None]
    assume(limited)
    for choice in nonempty(limited):
        config = TrainConfig(preset="nano", mode="tensor", **choice.options)
        step_tokens = config.batch_size * config.block_size
        assert (choice.least_steps - 1) * step_tokens < choice.most_tokens


@given(NOVELS)
def test_a_novel_gets_more_than_16_letters_of_context(facts: TextFacts) -> None:
    for mode in ("tensor", "scalar"):
        for choice in nonempty(choices_for(facts, mode)):
            config = TrainConfig(preset=choice.preset, mode=mode, **choice.options)
            assert config.block_size > 16


def test_a_large_alphabet_gets_a_larger_vocabulary() -> None:
    def first(size: int, alphabet: int) -> TrainConfig:
        choice = choices_for(
            TextFacts(size=size, characters=size, document=1e5, alphabet=alphabet), "tensor"
        )[0]
        return TrainConfig(preset=choice.preset, mode="tensor", **choice.options)

    chinese, english = first(3 * 10**6, 3000), first(3 * 10**6, 80)
    assert chinese.tokenizer == english.tokenizer == "bpe"
    assert chinese.vocab_size > english.vocab_size
    assert first(10**5, 3000).tokenizer == "char"  # a token for each of its 3,000 characters


def test_a_small_text_is_regularized_and_a_large_one_is_not() -> None:
    def first(size: int) -> TrainConfig:
        choice = choices_for(
            TextFacts(size=size, characters=size, document=1e5, alphabet=80), "tensor"
        )[0]
        return TrainConfig(preset=choice.preset, mode="tensor", **choice.options)

    assert first(50_000).dropout > first(5_000_000).dropout == 0


def test_a_small_text_is_read_a_bounded_number_of_times() -> None:
    def first(size: int) -> Choice:
        facts = TextFacts(size=size, characters=size, document=1e5, alphabet=80)
        (choice,) = choices_for(facts, "tensor")
        return choice

    tiny, small, large = first(60_000), first(400_000), first(600_000)
    assert [each.preset for each in (tiny, small, large)] == ["nano", "nano", "small"]
    assert tiny.options["hash_embed_rows"] == 0
    assert tiny.most_tokens == 12 * 60_000
    assert small.most_tokens == 12 * 400_000
    assert large.most_tokens is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            TextFacts(size=1, characters=1, document=1, alphabet=1),
            "1 byte of short training documents",
        ),
        (
            TextFacts(size=52, characters=52, document=4, alphabet=12),
            "52 bytes of short training documents",
        ),
        (
            TextFacts(size=54_321, characters=54_321, document=1e4, alphabet=88),
            "54 kB of training text",
        ),
        (
            TextFacts(size=1_300_000, characters=1_300_000, document=1e4, alphabet=3211),
            "1.3 MB of training text in 3,211 different characters",
        ),
    ],
)
def test_a_text_is_told_by_its_size_and_kind_and_a_large_alphabet(
    facts: TextFacts, words: str
) -> None:
    assert str(facts) == words


def test_the_line_that_tells_the_choice_fits_in_80_columns() -> None:
    facts = TextFacts(size=54_321, characters=54_321, document=1e4, alphabet=88)
    for choice in nonempty(choices_for(facts, "tensor")):
        assert len(f"{choice}: {facts}") <= 80
