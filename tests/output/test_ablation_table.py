"""The table of an ablation on a terminal: order, differences and what they are computed from."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.output.ablation_report import Report, confidence_95, paired_difference
from nanochat.output.ablation_table import ablation_rows, ablation_table
from nanochat.output.text import display_width

losses = st.floats(0.5, 9)


def run(lr, seed, val_loss, **changes):
    values = {"lr": lr, "seed": seed, "val_loss": val_loss, "val_bpb": val_loss, "params": 12345,
              "steps": 100, "steps_per_sec": 50.0, "tokens_per_sec": 1.0}  # fmt: skip
    return {**values, **changes}


RUNS = [run(0.1, 1, 3.0), run(0.1, 2, 3.5), run(0.2, 1, 2.0, params=9), run(0.2, 2, 2.75, params=9),
        run(0.3, 1, 4.0, val_bpb=None)]  # fmt: skip


def test_variants_are_sorted_by_their_loss_and_compared_with_the_first():
    best, first, worst = ablation_rows(Report(["lr"], RUNS))
    assert [row.variant for row in (best, first, worst)] == ["lr=0.2", "lr=0.1", "lr=0.3"]
    assert best.loss == (2.375, pytest.approx(12.706 * 0.53033 / math.sqrt(2), rel=1e-3))
    # By seed: 2.0 − 3.0 and 2.75 − 3.5. t = 12.706 with one degree of freedom.
    deviation = 0.125 * math.sqrt(2)
    assert best.difference == (-0.875, pytest.approx(12.706 * deviation / math.sqrt(2)))
    assert first.difference is None
    assert worst.difference == (1.0, None)  # one seed has no interval
    assert (best.params, best.seconds, best.seeds, worst.seeds) == (9, 2.0, 2, 1)
    assert worst.bpb is None


def test_a_variant_without_a_loss_is_last_and_one_without_a_common_seed_has_no_difference():
    runs = [run(0.1, 1, None, val_bpb=None), run(0.2, 2, 2.0), run(0.3, 1, 1.0, steps_per_sec=0.0)]
    rows = ablation_rows(Report(["lr"], runs))
    assert [row.variant for row in rows] == ["lr=0.3", "lr=0.2", "lr=0.1"]
    assert [row.difference for row in rows] == [None] * 3
    assert rows[0].seconds is None


@settings(deadline=None)
@given(st.lists(st.tuples(losses, losses), min_size=1, max_size=6), st.randoms())
def test_the_difference_is_that_of_runs_of_the_same_seed_in_any_order(pairs, random):
    ours = [run(1, seed, a) for seed, (a, _) in enumerate(pairs)]
    theirs = [run(2, seed, b) for seed, (_, b) in enumerate(pairs)]
    theirs += [run(2, len(pairs), 5.0), run(2, len(pairs) + 1, None)]
    random.shuffle(theirs)
    mean, half = paired_difference(ours, theirs, "val_loss")
    differences = [a - b for a, b in pairs]
    assert mean == pytest.approx(statistics.fmean(differences), abs=1e-12)
    if len(pairs) == 1:
        assert half is None
    else:
        assert half == pytest.approx(confidence_95(differences), abs=1e-12)


@pytest.mark.parametrize(
    ("encoding", "sign"), [("utf-8", "±"), ("ascii", "+/-"), ("x-none", "+/-")]
)
def test_the_table_shows_the_rows_in_the_letters_of_the_terminal(encoding, sign):
    report = Report(["lr"], RUNS)
    text = ablation_table(report, 80, encoding)
    text.encode("utf-8" if encoding == "utf-8" else "ascii")
    lines = text.splitlines()
    places = []
    for row in ablation_rows(report):
        (place,) = (i for i, line in enumerate(lines) if row.variant in line)
        places.append(place)
        for pair, form in ((row.loss, ".4f"), (row.difference, "+.4f")):
            if pair is not None:
                mean, half = pair
                shown = format(mean, form) + ("" if half is None else f" {sign} {half:.4f}")
                assert shown in lines[place]
        assert f"{row.params:,}" in lines[place] and "2.0" in lines[place]
    assert places == sorted(places)
    assert "(1 seed)" in text and "(2 seeds)" in text


def test_equal_numbers_of_seeds_are_told_once():
    text = ablation_table(Report(["lr"], RUNS[:4]), 80, "utf-8")
    assert text.startswith("2 seeds per variant; mean ± half of the 95 % interval;")
    single = ablation_table(Report(["lr"], RUNS[::2]), 80, "utf-8")
    assert single.startswith("1 seed per variant; differences")


@pytest.mark.parametrize("width", [1, 5, 20, 40, 60, 71, 72, 80, 1000])
@pytest.mark.parametrize("axes", [["lr"], ["lr", "data"]])
def test_any_width_and_any_variant_is_drawn_inside_the_width(width, axes):
    runs = [{**each, "data": "[bold]\x1b[2J 日本 " + "a" * 90} for each in RUNS]
    text = ablation_table(Report(axes, runs), width, "utf-8")
    assert "\x1b" not in text
    if width >= 20:
        assert max(map(display_width, text.splitlines())) <= width
    assert ablation_table(Report(axes, []), width, "utf-8")


def test_variants_of_several_options_have_a_line_for_each():
    runs = [
        {**run(lr, seed, lr + seed), "n_layer": layers}
        for lr, layers, seed in itertools.product((0.1, 0.2), (1, 2), (1, 2))
    ]
    lines = ablation_table(Report(["lr", "n_layer"], runs), 80, "utf-8").splitlines()
    assert len([line for line in lines if "lr=0.1" in line and "n_layer" not in line]) == 2
    assert len([line for line in lines if line.strip() == "n_layer=2"]) == 2
