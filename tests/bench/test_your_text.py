"""The five texts of README and guide: what a page shows of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.choices.your_text import (
    END,
    GUIDE,
    README,
    SAMPLE,
    fill,
    long_table,
    sample,
    short_table,
)

ROW = {
    "text": "tang", "kind": "Tang poems", "package": "fortunes-zh", "facts": "70 kB of training text",
    "choice": "preset small", "time_budget": "60s", "clock_s": 58.24, "before": "x ` y",
    "after": "a" * 200, "val_bpb": 2.3456, "baseline_bpb": 2.5, "steps": 1200, "best_step": 900,
    "params": 10,
}  # fmt: skip


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("sample 1: To be\nmode=tensor steps=1\nrun: runs/x\n", "To be"),
        ("--- sample 1 ---\nTo be\n  or not\nmode=tensor\n", "To be or not"),
        ("sample 1: \x1b[32mred\x1b[m\tend\nrun: r\n", "red end"),
    ],
)
def test_a_sample_is_one_line_without_escapes(printed: str, shown: str) -> None:
    assert sample(printed) == shown


def test_tables_show_the_record() -> None:
    assert "| Tang poems (`fortunes-zh`) | 70 kB | 2.35 | 2.50 |" in short_table([ROW])
    text = long_table([ROW])
    assert "`nanochat train tang.txt --time-budget 60s`" in text
    assert "2.346 bits per byte, counting 2.500; step 900 of 1,200 was the best; 58.2 s" in text
    assert "`` x ` y ``" in text
    assert "a" * SAMPLE + " …" in text
    assert "a" * (SAMPLE + 1) not in text


def test_a_page_without_markers_is_refused_and_filling_twice_changes_nothing(
    tmp_path: Path,
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n<!-- here -->\nold\n{END}\nafter\n")
    fill(page, "<!-- here -->", "| new |")
    once = page.read_text()
    assert once == f"before\n\n<!-- here -->\n\n| new |\n\n{END}\nafter\n"
    fill(page, "<!-- here -->", "| new |")
    assert page.read_text() == once
    with pytest.raises(SystemExit, match="must have the lines"):
        fill(page, "<!-- there -->", "| new |")


@pytest.mark.parametrize("place", [README, GUIDE])
def test_the_pages_have_the_markers(place: tuple[Path, str]) -> None:
    content = place[0].read_text(encoding="utf-8")
    assert content.index(place[1]) < content.index(END)
