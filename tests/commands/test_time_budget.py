"""A time budget becomes a preset, a batch and a number of steps; the clock here is a counter."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanochat
from nanochat import TrainConfig
from nanochat.commands import time_budget as budget
from nanochat.commands.time_budget import LADDERS, fit_to_budget
from nanochat.config.options import budget_seconds
from nanochat.errors import ConfigError
from nanochat.runs.load import read_checkpoint

LINES = "\n".join(f"name{'abcdefgh'[i % 8]}{'xyz'[i % 3]}" for i in range(400))
TICK = 0.01  # seconds that each look at the clock takes; so a step takes one tick


class Clock:
    def __init__(self, tick: float = TICK) -> None:
        self._ticks = itertools.count()
        self._tick = tick

    def __call__(self) -> float:
        return next(self._ticks) * self._tick


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text(LINES)
    size = {"n_layer": 1, "n_embd": 16, "n_head": 4, "threads": 1}
    sampling = {"num_samples": 1, "max_new_tokens": 3}
    return {"data": str(path), "documents": "line", **sampling, **size}


@pytest.fixture
def long_text(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("To be, or not to be, that is the question.\n" * 60)
    size = {"n_layer": 1, "n_embd": 16, "n_head": 4, "block_size": 16, "batch_size": 2}
    return {"data": str(path), "num_samples": 0, "threads": 1, **size}


@given(st.floats(0.001, 1e6), st.sampled_from("smh"), st.sampled_from(["", " "]))
def test_a_time_is_a_number_and_a_unit(number, unit, space):
    number = round(number, 6)
    expected = number * {"s": 1, "m": 60, "h": 3600}[unit]
    assert budget_seconds(f"{number:f}{space}{unit}") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "0", "0s", "-5s", "5d", "1e3", "nan", "s", "5 m s", "٣s"])
def test_another_text_is_refused_by_name_rule_and_value(text):
    with pytest.raises(ConfigError) as refusal:
        TrainConfig(time_budget=text)
    value = text or "''"
    assert str(refusal.value) == f"time_budget must be a time like 60s, 5m or 1h, got {value}"


def test_steps_and_a_budget_exclude_each_other():
    with pytest.raises(ConfigError, match="time_budget chooses steps; leave out steps, got 7"):
        TrainConfig(time_budget="5s", steps=7)


def test_several_processes_have_no_common_clock(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="time_budget needs a single process, got 2 processes; use"
    ):
        TrainConfig(time_budget="5s")


@pytest.mark.parametrize("time_budget", ["4s", "9s", "20s"])
def test_steps_and_what_surrounds_them_fill_the_budget(lines, time_budget):
    clock = Clock()
    fit = fit_to_budget(TrainConfig(time_budget=time_budget, **lines), clock(), clock=clock)
    left = budget_seconds(time_budget) - clock()
    planned = fit.config.steps * fit.step_s + fit.around_s
    assert left - 10 * TICK <= planned <= left + 10 * TICK
    assert fit.step_s == pytest.approx(TICK)


def test_more_time_takes_a_larger_preset(lines, long_text, monkeypatch):
    monkeypatch.setattr(budget, "SMALLEST_TEXT", 1000)
    for options, kind in ((lines, "short"), (long_text, "long")):
        (large, least), (small, _) = LADDERS[kind]
        chosen = {}
        for seconds in (least * TICK * 0.7, least * TICK * 4):
            clock = Clock()
            config = TrainConfig(time_budget=f"{seconds:.3f}s", **options)
            chosen[seconds] = fit_to_budget(config, clock(), clock=clock).config.preset
        assert list(chosen.values()) == [small, large]


def test_a_short_text_gets_no_word_pieces(long_text):
    clock = Clock()
    config = TrainConfig(time_budget="1h", **long_text)
    assert fit_to_budget(config, clock(), clock=clock).config.preset == "nano"


def test_the_scalar_engine_takes_its_own_preset_for_any_text(lines, long_text, monkeypatch):
    for options in (lines, {**long_text, "n_embd": 8, "threads": 0}):
        clock = Clock()
        config = TrainConfig(time_budget="9s", mode="scalar", **options)
        chosen = fit_to_budget(config, clock(), clock=clock).config
        assert (chosen.preset, chosen.mode) == ("pico", "scalar")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # a machine without torch
    clock = Clock()
    chosen = fit_to_budget(TrainConfig(time_budget="9s", **lines), clock(), clock=clock).config
    assert (chosen.preset, chosen.mode) == ("pico", "scalar")


def test_rows_that_cost_nothing_are_taken_at_the_roots_rate(lines):
    clock = Clock()  # every step takes one tick, whatever its rows
    config = TrainConfig(time_budget="5s", preset="pico", **lines)
    chosen = fit_to_budget(config, clock(), clock=clock).config
    assert chosen.batch_size == config.batch_size * 16
    assert chosen.lr == pytest.approx(config.lr * 4)


def test_what_was_given_stays(lines):
    clock = Clock()
    given = {"preset": "pico", "batch_size": 5, "lr": 0.003, "eval_every": 9, **lines}
    config = TrainConfig(time_budget="5s", **given)
    chosen = fit_to_budget(config, clock(), clock=clock).config
    assert {name: getattr(chosen, name) for name in given} == given


def test_a_budget_without_time_for_a_step_is_refused(lines):
    clock = Clock(1.0)
    with pytest.raises(ConfigError, match="time_budget must leave time for a step, got 2s; start"):
        fit_to_budget(TrainConfig(time_budget="2s", **lines), clock(), clock=clock)


def test_a_run_by_the_clock_is_repeated_without_it(lines, tmp_path):
    by_clock = TrainConfig(
        time_budget="4s", out=str(tmp_path / "a"), mode="scalar", batch_size=4, **lines
    )
    run = nanochat.train(by_clock)
    saved = json.loads((run.run / "result.json").read_text())
    chosen = read_checkpoint(str(run.run))[1]
    assert chosen.time_budget is None
    assert chosen.steps == saved["steps"] > 0
    again = nanochat.train(dataclasses.replace(chosen, out=str(tmp_path / "b")))
    for name in ("final_loss", "val_loss", "steps", "train_tokens"):
        assert again.metrics[name] == run.metrics[name]
    assert again.samples == run.samples
