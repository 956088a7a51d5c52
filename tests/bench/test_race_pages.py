"""The tables of the race: the pages agree with the records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.race import pages as race_pages


def a_record() -> dict[str, Any]:
    def side(name: str, kind: str, *arguments: str) -> dict[str, Any]:
        return {"name": name, "kind": kind, "arguments": list(arguments)}

    def summary(name: str, seconds: float, score: float, p: float) -> dict[str, Any]:
        return {
            "side": name, "parameters": 1234, "context": 64, "seconds": seconds, "seconds_sd": 0.5,
            "steps_seconds": seconds / 2, "score": score, "score_sd": 0.01,
            "p_below_reference": p,
            "times_faster": {"ratio": 9.06, "low": 8.0, "high": 10.04},
        }  # fmt: skip

    ours = ("--preset", "nano", "--eval-tokens", "8192", "--steps", "130")
    return {
        "sides": [side("nanogpt tuned", "nanogpt"), side("ours tuned", "ours", *ours),
                  side("ours other", "ours", *ours), side("nanochat x", "nanochat")],
        "summary": [summary("nanogpt tuned", 90.0, 1.9, 0.5), summary("ours tuned", 10.0, 1.8, 1e-3),
                    summary("ours other", 10.0, 1.95, 0.02), {"side": "nanochat x"}],
    }  # fmt: skip


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "short.json").write_text(json.dumps(a_record()))
    monkeypatch.setattr(race_pages, "RESULTS", tmp_path)
    race_pages.record.cache_clear()


def test_a_row_is_its_sides_summary(records: None) -> None:
    text = "before\n<!-- race: short ours tuned -->\nold\n<!-- end -->\nafter\n"
    lines = race_pages.written(text).splitlines()
    assert lines[4:] == [
        "| `--preset nano --steps 130` | 1,234 |  | 64 | 10.0 s ± 0.5 | 5.0 s | 1.800 ± 0.010"
        " | 9.1 (8.0–10.0) |",
        "<!-- end -->",
        "after",
    ]


def test_a_record_alone_means_all_sides_that_finished(records: None) -> None:
    table = race_pages.written("<!-- race: short -->\n<!-- end -->").splitlines()
    assert [re.split(r" *\| *", line)[1] for line in table[3:-1]] == [
        "nanoGPT, tuned", "`--preset nano --steps 130`", "`--preset nano --steps 130`",
    ]  # fmt: skip


def test_a_score_that_is_not_below_says_so(records: None) -> None:
    assert "not below" in race_pages.rows("short ours other")
    assert "not below" not in race_pages.rows("short ours tuned | short nanogpt tuned")


def test_a_side_that_did_not_finish_is_named(records: None) -> None:
    with pytest.raises(SystemExit, match="short: no side 'nanochat x' finished; these did"):
        race_pages.rows("short nanochat x")


@pytest.mark.parametrize("page", [race_pages.PAGE], ids=lambda page: page.name)
def test_a_page_agrees_with_its_records(page: Path) -> None:
    race_pages.record.cache_clear()
    text = page.read_text(encoding="utf-8")
    assert race_pages.TABLE.search(text)
    assert race_pages.written(text) == text
