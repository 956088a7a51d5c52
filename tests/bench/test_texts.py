"""The comparison of `--preset auto` with all presets: the split of the texts and the verdict."""

from __future__ import annotations

import math

import pytest

from bench.choices.text_sources import _split
from bench.choices.texts import AUTO, digest, missing, verdict


def scores(auto: list[float], **others: list[float]) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(each)) for name, each in {AUTO: auto, **others}.items()}


@pytest.mark.parametrize(
    ("auto", "is_good"),
    [([2.02, 2.01, 2.03], True), ([2.05, 2.04, 2.06], False), ([1.9, 2.2, 2.1], True)],
)
def test_a_choice_is_good_within_the_margin_or_two_standard_errors(
    auto: list[float], is_good: bool
) -> None:
    found = verdict(scores(auto, mini=[2.0, 2.0, 2.0], nano=[3.0, 3.0, 3.0]), 20_000)
    assert found["best"] == "mini"
    assert found["behind_bpb"] == pytest.approx(sum(auto) / 3 - 2.0)
    assert found["good"] is is_good


def test_a_small_text_is_behind_only_if_the_difference_is_significant() -> None:
    noisy = verdict(scores([2.0, 2.9, 2.2], mini=[2.0, 2.0, 2.1]), 19_999)
    steady = verdict(scores([2.10, 2.11, 2.12], mini=[2.0, 2.0, 2.0]), 19_999)
    assert (noisy["good"], steady["good"]) == (True, False)


def test_one_seed_has_no_standard_error() -> None:
    found = verdict(scores([2.5], mini=[2.0]), 50_000)
    assert math.isinf(found["standard_error"])


def test_a_long_document_ends_with_its_test_part() -> None:
    content = "".join(f"line {i}\n" for i in range(100))
    train, test = _split(content, "file")
    assert train + test == content
    assert train.endswith("\n")
    assert len(test) <= len(content) / 10


def test_a_tenth_of_the_units_is_drawn_for_the_score() -> None:
    units = [f"unit {i}" for i in range(50)]
    train, test = _split("\n%\n".join(units), "\n%\n")
    parts = [[u for u in part.split("\n%\n") if u] for part in (train, test)]
    assert sorted(parts[0] + parts[1]) == sorted(units)
    assert len(parts[1]) == 5
    assert parts[1] != units[-5:]


def test_a_cell_is_measured_again_only_if_the_defaults_of_its_preset_changed() -> None:
    options = {"budgets": [300], "seeds": 1, "names": ["kjv"], "candidates": ["mini"]}
    ((text, budget, candidate, seed),) = missing([], **options)
    cell = {"text": text.name, "budget_s": budget, "candidate": candidate, "seed": seed}
    assert list(missing([{**cell, "defaults": digest("mini")}], **options)) == []
    assert len(list(missing([{**cell, "defaults": "before"}], **options))) == 1
