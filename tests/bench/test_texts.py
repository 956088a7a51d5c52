"""The comparison of `--preset auto` with all presets: the split of the texts and the verdict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench.choices import text_sources, texts
from bench.choices.text_sources import TEXTS, _split
from bench.choices.texts import (
    AUTO,
    BEYOND,
    compared_with_counting,
    digest,
    measure,
    missing,
    verdict,
)
from nanochat.config import preset_choice
from nanochat.config.presets import PRESETS


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


def test_one_seed_decides_nothing() -> None:
    found = verdict(scores([2.5], mini=[2.0]), 50_000)
    assert math.isinf(found["standard_error"])
    assert found["good"] is None


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


FACTS = {"size": 4_000_000, "characters": 4_000_000, "document": 4e6, "alphabet": 73}


def cell(candidate: str, score: float, seed: int = 1) -> dict[str, Any]:
    return {
        "text": "kjv", "budget_s": 300, "candidate": candidate, "seed": seed, "test_bpb": score,
        "facts": FACTS, "defaults": digest(candidate, FACTS),
    }  # fmt: skip


def test_a_cell_is_measured_again_only_if_the_defaults_of_its_preset_changed() -> None:
    options = {"budgets": [300], "seeds": 1, "names": ["kjv"], "candidates": ["mini"]}
    assert len(list(missing([], **options))) == 1
    assert list(missing([cell("mini", 2.0)], **options)) == []
    assert len(list(missing([cell("mini", 2.0) | {"defaults": "before"}], **options))) == 1


def test_a_cell_of_auto_is_measured_again_only_if_the_rule_chooses_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"budgets": [300], "seeds": 1, "names": ["kjv"], "candidates": [AUTO]}
    cells = [cell(AUTO, 2.0)]
    monkeypatch.setattr(preset_choice, "LARGE_ALPHABET", 1000)  # not of this text
    assert list(missing(cells, **options)) == []
    monkeypatch.setattr(preset_choice, "LARGE_ALPHABET", 73)
    assert len(list(missing(cells, **options))) == 1


def test_a_preset_far_behind_at_the_first_seed_gets_no_more_seeds() -> None:
    options = {"budgets": [300], "seeds": 3, "names": ["kjv"], "candidates": [AUTO, "mini", "nano"]}
    cells = [cell(AUTO, 3.0), cell("mini", 2.0), cell("nano", 2.01 + BEYOND[300])]
    left = [(candidate, seed) for _, _, candidate, seed in missing(cells, **options)]
    assert left == [(AUTO, 2), ("mini", 2), (AUTO, 3), ("mini", 3)]


def test_a_cell_keeps_the_score_of_the_test_part_and_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = texts.run_nanochat
    few = {"--time-budget=10s": "--steps=3", "--quiet": "--mode=scalar"}  # no clock in a test
    monkeypatch.setattr(texts, "run_nanochat", lambda *w: run(*(few.get(str(x), x) for x in w)))
    (tmp_path / "kjv").mkdir()
    (tmp_path / "kjv" / "train.txt").write_text("to be or not to be\n" * 200)
    (tmp_path / "kjv" / "test.txt").write_text("not to be\n" * 20)
    found = measure(TEXTS[0], tmp_path, 10, "pico", 1)
    assert found["preset"] == "pico"
    assert found["block_size"] == PRESETS["pico"]["block_size"]
    assert found["bytes"] == 19 * 200
    assert 0 < found["test_bpb"] < 8
    assert found["best_step"] <= found["steps"]


def test_a_score_has_no_characters_that_the_training_part_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "ab\n" * 30 + "a\u00e9b\n"
    monkeypatch.setattr(text_sources, "_content", lambda text, packages: content)
    train, test = text_sources.collect(TEXTS[0], tmp_path)
    assert train.read_text() == "ab\n" * 29
    assert test.read_text() == "ab\nab\n"


def test_the_comparison_with_counting_has_the_mean_and_the_worst_text() -> None:
    said = compared_with_counting({"kjv": -0.125, "tang": 0.0625, "man": -0.25})
    assert said.endswith("of 3 texts: mean -0.104, largest +0.062 (tang)")
