"""Intervals and tables of an ablation, against integrals of the t density and by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.errors import OutputError
from nanochat.output.ablation_report import Report, confidence_95, write_report


def coverage(t: float, freedom: int) -> float:
    """P(|T| ≤ t) of Student's t: its density, integrated by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = t / 2 * (nodes + 1)  # 0 … t
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    density = scale / math.sqrt(freedom * math.pi) * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    return float(2 * t / 2 * (weights * density).sum())


@pytest.mark.parametrize("count", [*range(2, 40), 60, 100, 1000])
def test_the_interval_covers_95_percent_of_students_t(count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    t = confidence_95(values) / (statistics.stdev(values) / math.sqrt(count))
    assert coverage(t, count - 1) == pytest.approx(0.95, abs=1e-4)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.floats(0.01, 100))
def test_the_interval_scales_with_the_values_and_ignores_where_they_lie(values, factor):
    half = confidence_95(values)
    assert confidence_95([factor * v for v in values]) == pytest.approx(
        factor * half, rel=1e-9, abs=1e-9
    )
    assert confidence_95([v + 7 for v in values]) == pytest.approx(half, rel=1e-6, abs=1e-9)


def test_equal_values_have_an_interval_of_nothing_and_one_value_has_none():
    assert confidence_95([2.5] * 7) == 0.0
    assert math.isnan(confidence_95([2.5]))


def row(tie, seed, val_loss, val_bpb=1.0):
    return {"tie": tie, "seed": seed, "val_loss": val_loss, "val_bpb": val_bpb,
            "steps_per_sec": 9.0, "extra": None, "tokens_per_sec": 8.0}  # fmt: skip


ROWS = [row(True, 1, 2.0), row(True, 2, 3.0), row(False, 1, 1.0), row(False, 2, 1.5)]


def test_runs_are_grouped_by_variant_in_the_order_of_the_grid():
    report = Report(["tie"], ROWS)
    first, second = report.variants()
    assert (first["variant"], second["variant"]) == ("tie=true", "tie=false")
    assert first["seeds"] == 2
    assert first["val_loss_mean"] == 2.5
    # t = 12.706 with one degree of freedom, a deviation of 1/√2 and two values
    assert first["val_loss_ci95"] == pytest.approx(12.706 * math.sqrt(0.5) / math.sqrt(2))
    assert "| tie=true | 2 | 2.5000 ± 6.3530 | 1.0000 ± 0.0000 |" in report.markdown()


def test_a_single_seed_has_a_mean_without_an_interval():
    assert "| tie=true | 1 | 2.0000 | 1.0000 |" in Report(["tie"], ROWS[:1]).markdown()
    assert Report(["tie"], ROWS[:1]).variants()[0]["val_loss_ci95"] is None


def test_timings_are_the_last_columns():
    rows = list(csv.DictReader(io.StringIO(Report(["tie"], ROWS).csv())))
    assert list(rows[0]) == [
        "tie", "seed", "val_loss", "val_bpb", "extra", "steps_per_sec", "tokens_per_sec",
    ]  # fmt: skip
    assert [float(r["val_loss"]) for r in rows] == [2.0, 3.0, 1.0, 1.5]


def test_the_files_hold_what_the_report_says(tmp_path):
    report = Report(["tie"], ROWS)
    assert write_report(report, tmp_path) == report.variants()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    assert (tmp_path / "results.csv").read_text() == report.csv()
    assert (tmp_path / "table.md").read_text() == report.markdown() + "\n"
    assert (tmp_path / "losses.png").stat().st_size > 1000


@pytest.mark.parametrize("rows", [[], [row(True, 1, None, None)], [row(True, 1, math.inf)]])
def test_nothing_to_plot_is_still_a_whole_report(tmp_path, rows):
    write_report(Report(["tie"], rows), tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"results.csv", "results.jsonl", "table.md", "losses.png"}


def test_a_table_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(OutputError) as caught:
        write_report(Report(["tie"], ROWS), tmp_path)
    path = tmp_path / "results.jsonl"
    assert str(caught.value) == f"cannot write {path}: Is a directory; choose a writable out"
    assert Path(tmp_path / "results.csv").exists()
