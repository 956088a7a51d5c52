"""A time budget becomes a preset, a batch and a number of steps; the clock here is a counter."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanochat
from nanochat import TrainConfig
from nanochat.commands import preset_choice as commands_choice
from nanochat.commands import time_budget as budget
from nanochat.commands.time_budget import EVALUATIONS, PAUSE_SHARE, Fit, fit_to_budget
from nanochat.config import preset_choice
from nanochat.config.options import budget_seconds, options_of
from nanochat.config.preset_choice import TextFacts, choices_for
from nanochat.config.presets import PRESETS
from nanochat.config.sources import read_config_file
from nanochat.data.tokenizer import CharTokenizer
from nanochat.errors import ConfigError, OutputError, RunInterrupted
from nanochat.output.terminal import Terminal
from nanochat.runs.load import read_checkpoint
from nanochat.training.deadline import Deadline

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


def fitted(budget_text: str, clock: Clock | None = None, **options) -> Fit:
    clock = clock or Clock()
    return fit_to_budget(TrainConfig(time_budget=budget_text, **options), clock(), clock=clock)


@pytest.mark.parametrize("time_budget", ["4s", "9s", "20s"])
def test_steps_and_what_surrounds_them_fill_the_budget(lines, time_budget):
    clock = Clock()
    fit = fitted(time_budget, clock, **lines, preset="mini")
    budget_s = budget_seconds(time_budget)
    pauses = fit.config.steps // fit.config.eval_every
    planned = fit.config.steps * fit.plan.step_s + pauses * fit.plan.pause_s + fit.plan.after_s
    assert 0.9 * budget_s <= clock() + planned <= budget_s
    assert fit.plan.step_s == pytest.approx(TICK)


def test_the_timings_take_a_few_per_cent_of_the_budget(lines):
    clock = Clock()
    fit = fitted("20s", clock, **lines)
    assert fit.config.preset == "mini"  # after `pico` was timed too
    # Half of these ticks are looks between steps, which cost nothing on a real clock.
    assert clock() <= 2 * 0.04 * 20


@pytest.mark.parametrize("time_budget", ["2s", "9s", "60s"])
def test_evaluations_and_saves_take_at_most_their_share(long_text, time_budget):
    fit = fitted(time_budget, **long_text)
    budget_s = budget_seconds(time_budget)
    every = fit.config.eval_every
    evaluations = fit.config.steps // every if every else 0
    assert evaluations * fit.plan.pause_s <= PAUSE_SHARE * budget_s + fit.plan.pause_s
    assert evaluations <= EVALUATIONS
    assert evaluations >= EVALUATIONS - 1 or budget_s < 60


def test_a_text_that_takes_long_to_score_is_scored_in_part(lines, long_text):
    text = Path(long_text["data"])
    text.write_text(text.read_text() * 500)
    fit = fitted("20s", Clock(0.02), **long_text, preset="nano")
    batches = fit.dataset.evaluation_set(fit.config)
    whole = fit.dataset.evaluation_set(dataclasses.replace(fit.config, eval_tokens=0))
    assert 1 <= len(batches) < len(whole)
    assert fit.plan.after_s < 0.1 * 20
    assert not fit.plan.scores_all
    assert fitted("60s", **lines, preset="pico").plan.scores_all
    given = fitted("20s", Clock(0.02), **long_text, preset="nano", eval_tokens=5000)
    assert given.config.eval_tokens == 5000


def test_the_text_is_prepared_once_for_all_presets_that_read_the_same_tokens(
    lines, long_text, monkeypatch
):
    monkeypatch.setattr(preset_choice, "SMALL_TEXT", 1000)
    monkeypatch.setattr(preset_choice, "PAGES", 1000)
    loaded = []
    load = budget.load_dataset
    monkeypatch.setattr(
        budget,
        "load_dataset",
        lambda config, *_, **__: loaded.append(config.tokenizer) or load(config),
    )
    fitted("9s", **lines)
    assert loaded == ["char"]
    loaded.clear()
    fit = fitted("60s", **long_text)
    assert fit.config.preset == "small"
    assert loaded == ["bpe"]
    expected = load(fit.config)  # `small` is timed on its own tokens
    assert fit.dataset.tokenizer.to_dict() == expected.tokenizer.to_dict()
    assert (fit.dataset.train.tokens == expected.train.tokens).all()
    assert fit.dataset.batching == expected.batching == "windows"


def test_torch_compile_is_chosen_only_by_the_user_or_in_a_long_budget(lines):
    tensor = {**lines, "mode": "tensor", "preset": "pico"}
    assert fitted("4s", **tensor).config.compile == "off"
    assert fitted("30m", Clock(5.0), **tensor).config.compile == "auto"


def test_more_time_takes_a_larger_preset(lines):
    facts = TextFacts(size=10**5, characters=10**5, document=8, alphabet=60)
    large, small = choices_for(facts, "tensor")
    chosen = []
    for seconds in (large.least_steps * TICK * 0.7, large.least_steps * TICK * 4):
        clock = Clock()
        config = TrainConfig(time_budget=f"{seconds:.3f}s", **lines)
        chosen.append(fit_to_budget(config, clock(), clock=clock).config.preset)
    assert chosen == [small.preset, large.preset]


def test_a_short_text_gets_no_word_pieces(long_text, monkeypatch):
    monkeypatch.setattr(preset_choice, "PAGES", 1000)
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


def test_exact_numerics_keep_the_scalar_engine_under_a_budget(long_text):
    given = {**long_text, "n_embd": 8, "n_head": 2, "threads": 0}
    chosen = fitted("9s", numerics="exact", **given).config
    assert (chosen.preset, chosen.mode) == ("pico", "scalar")


def test_a_given_preset_and_a_bigram_are_not_explained_by_the_text(lines):
    assert fitted("9s", preset="mini", **lines).choice == ""
    size = {name: value for name, value in lines.items() if name not in ("n_layer", "n_head")}
    assert fitted("9s", model_kind="bigram", **size).choice == ""
    assert fitted("9s", **lines).choice.startswith(
        "preset mini (prev_token_tables 3, weight_decay 0.5): 2 kB of short training documents"
    )


def test_a_budget_prepares_the_text_with_the_tokenizer_of_a_trained_model(lines):
    clock, known = Clock(), CharTokenizer(sorted({*LINES, "é"} - {"\n"}))
    config = TrainConfig(time_budget="9s", **lines)
    fit = fit_to_budget(config, clock(), known=known, clock=clock)
    assert fit.dataset.tokenizer.to_dict() == known.to_dict()


def test_rows_that_cost_nothing_are_taken_at_the_roots_rate(lines):
    clock = Clock()  # every step takes one tick with any number of rows
    config = TrainConfig(time_budget="60s", preset="pico", **lines)
    chosen = fit_to_budget(config, clock(), clock=clock).config
    assert chosen.batch_size == config.batch_size * 16
    assert chosen.lr == pytest.approx(config.lr * 4)


def test_a_small_text_is_read_no_more_often_than_it_needs(long_text, monkeypatch):
    monkeypatch.setattr(preset_choice, "PAGES", 1000)
    text = Path(long_text["data"])
    text.write_text(text.read_text() * 2)
    options = {**long_text, "batch_size": 20}
    fit = fitted("60s", **options)
    step_tokens = 20 * options["block_size"]
    characters = fit.dataset.train.token_count
    most = math.ceil(12 * characters / step_tokens)
    assert (fit.config.steps, fit.plan.most_steps) == (most, most)
    assert f"{most} steps of 10 ms and 20 rows, enough for so little text; " in str(fit)
    assert 0 < fit.config.eval_every <= most / 10
    assert fit.config.hash_embed_rows == 0
    del options["batch_size"]  # the batch stays as it is: the time suffices
    assert fitted("60s", **options).config.batch_size == PRESETS["nano"]["batch_size"]


def test_a_preset_that_cannot_have_enough_steps_is_not_timed(lines, monkeypatch):
    options = {"data": lines["data"], "documents": "line", "num_samples": 0, "threads": 1}
    timed = []
    trial = budget._Trial
    monkeypatch.setattr(
        budget, "_Trial", lambda config, *rest: timed.append(config.preset) or trial(config, *rest)
    )
    # A step of `mini` multiplies about 19 times as many numbers as one of `pico`.
    least_s = 200 * TICK * 19 / budget.LARGEST_GAIN
    assert fitted(f"{0.9 * least_s:.2f}s", **options).config.preset == "pico"
    assert timed == ["pico"]
    timed.clear()
    fitted(f"{1.3 * least_s:.2f}s", **options)
    assert timed == ["pico", "mini"]


def test_a_few_seconds_are_not_spent_on_the_start_of_torch(lines, monkeypatch):
    options = {"data": lines["data"], "documents": "line", "num_samples": 0, "threads": 1}
    timed = []
    trial = budget._Trial
    monkeypatch.setattr(
        budget, "_Trial", lambda config, *rest: timed.append(config.mode) or trial(config, *rest)
    )
    monkeypatch.setattr(budget, "sys", SimpleNamespace(modules={}))
    least_s = 1.1 * budget.LEAST_FOR_TORCH_S
    assert fitted("5s", Clock(1e-4), **options).config.mode == "scalar"
    assert timed == ["scalar"]
    timed.clear()
    assert fitted(f"{least_s:.1f}s", Clock(1e-4), **options).config.mode == "tensor"
    assert timed == ["scalar", "tensor"]


def test_a_chosen_rate_grows_with_the_rows_and_a_given_one_stays(long_text, monkeypatch):
    choice = preset_choice.Choice(preset="nano", options={"lr": 1e-3, "dropout": 0.1})
    monkeypatch.setattr(commands_choice, "choices_for", lambda facts, mode: (choice,))
    options = {**long_text}
    del options["batch_size"]
    config = fitted("60s", **options).config  # every step takes one tick with any number of rows
    rows = PRESETS["nano"]["batch_size"]
    assert config.batch_size == rows * 16
    assert (config.lr, config.dropout) == (pytest.approx(4e-3), 0.1)
    given = fitted("60s", **options, lr=5e-4).config
    assert (given.batch_size, given.lr) == (rows * 16, 5e-4)


def test_what_was_given_stays(lines):
    clock = Clock()
    given = {"preset": "pico", "batch_size": 5, "lr": 0.003, "eval_every": 9, **lines}
    config = TrainConfig(time_budget="5s", **given)
    chosen = fit_to_budget(config, clock(), clock=clock).config
    given["data"] = (given["data"],)
    assert {name: getattr(chosen, name) for name in given} == given


def test_a_budget_that_is_too_short_is_refused_with_the_least_that_works(lines):
    with pytest.raises(ConfigError) as refusal:
        fitted("2s", Clock(0.3), **lines)
    least = re.fullmatch(
        r"time_budget must be at least about (\d+)s for this text and machine, got 2s; the start"
        r" took [\d.]+ s and a step takes 0.3 s",
        str(refusal.value),
    )
    assert least
    assert fitted(f"{least[1]}s", Clock(0.3), **lines).config.steps >= 3


def test_a_budget_that_the_start_has_used_up_is_refused_without_a_trial(lines, monkeypatch):
    monkeypatch.setattr(budget, "build_engine", lambda *_: pytest.fail("a trial"))
    clock = Clock()
    with pytest.raises(
        ConfigError, match=r"at least about \d+s .* got 2s; the start took 3\.\d s$"
    ):
        fit_to_budget(TrainConfig(time_budget="2s", **lines), -3.0, clock=clock)


def _without_time(monkeypatch) -> None:
    def refused(config, _started, **_):
        return fit_to_budget(config, -60.0, clock=Clock())

    monkeypatch.setattr(budget, "fit_to_budget", refused)


def test_a_budget_too_short_for_a_network_counts_alone(lines, tmp_path, monkeypatch, capsys):
    _without_time(monkeypatch)
    plain = {name: lines[name] for name in ("data", "documents", "num_samples", "threads")}
    started = nanochat.train({**plain, "time_budget": "2s", "out": str(tmp_path / "run")},
                             progress=True)  # fmt: skip
    note = r"2s: too short for a network, as the start took 60\.\d s; counted n-grams alone"
    assert re.search(note, capsys.readouterr().out)
    alone = nanochat.train({**plain, "preset": "ngram", "out": str(tmp_path / "alone")})
    assert started.metrics["model_kind"] == "ngram"
    assert started.metrics["val_loss"] == alone.metrics["val_loss"]


@pytest.mark.parametrize("options", [{"preset": "pico"}, {"lr": 0.01}, {"mode": "tensor"}])
def test_options_of_a_network_refuse_a_budget_too_short_for_one(
    lines, tmp_path, monkeypatch, options
):
    _without_time(monkeypatch)
    plain = {name: lines[name] for name in ("data", "documents", "num_samples", "threads")}
    with pytest.raises(ConfigError, match="time_budget must be at least about"):
        nanochat.train({**plain, **options, "time_budget": "2s", "out": str(tmp_path / "run")})


def test_a_disk_that_refuses_the_trial_checkpoint_is_one_line(lines, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(budget, "save_checkpoint", full)
    with pytest.raises(OutputError, match="No space left on device"):
        fitted("9s", **lines, out=str(tmp_path / "run"))
    assert not any(tmp_path.glob(".nanochat-*"))


# ----------------------------------------------------------------------------- a run by the clock


@pytest.fixture
def by_clock(lines, monkeypatch):
    """Train with a budget of seconds that are ticks; the clock can be made to jump."""

    def run(**options):
        clock = Clock()
        monkeypatch.setattr(
            budget,
            "fit_to_budget",
            lambda config, _, **text: fit_to_budget(config, 0.0, clock=clock, **text),
        )
        monkeypatch.setattr(
            Deadline,
            "resumed",
            classmethod(
                lambda cls, config, trainer, _, resumed=resumed: resumed(
                    config, trainer, clock(), clock=clock
                )
            ),
        )
        given = {"mode": "scalar", "batch_size": 4, **lines, **options}
        return nanochat.train(TrainConfig(**given))

    resumed = Deadline.resumed
    return run


def weights(run: Path) -> bytes:
    newest = max((run / "checkpoints").iterdir())
    return (newest / "weights.safetensors").read_bytes()


def steps_of(run: Path) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    return [{key: r[key] for key in r if key != "elapsed_s"} for r in steps]


def assert_repeats(run, tmp_path, lines) -> None:
    """The saved config, given as a file, trains the same weights without a clock."""
    saved = read_config_file(str(run.run / "config.toml"), options_of(TrainConfig))
    assert not {"time_budget", "out", "resume"} & saved.keys()
    assert saved["steps"] == run.metrics["steps"] > 10
    again = nanochat.train(TrainConfig(**saved, out=str(tmp_path / "again")))
    assert weights(again.run) == weights(run.run)
    assert steps_of(again.run) == steps_of(run.run)
    for name in ("final_loss", "val_loss", "steps", "train_tokens"):
        assert again.metrics[name] == run.metrics[name]
    assert again.samples == run.samples
    checkpoint = read_checkpoint("last", str(run.run))
    assert checkpoint[0].trainer.budget is None
    assert checkpoint[1].schedule_points == saved["schedule_points"]


def test_a_run_by_the_clock_is_repeated_bit_identically_without_it(by_clock, lines, tmp_path):
    run = by_clock(time_budget="12s", out=str(tmp_path / "a"))
    assert_repeats(run, tmp_path, lines)
    rates = [record["lr"] for record in steps_of(run.run)]
    assert rates[-1] < 0.1 * max(rates)


def test_a_run_by_the_clock_that_is_interrupted_goes_on_and_is_repeated(
    by_clock, lines, tmp_path, stop_after
):
    stop_after(24)
    out = str(tmp_path / "a")
    with pytest.raises(RunInterrupted, match="stopped after step 24"):
        by_clock(time_budget="4s", out=out)
    checkpoint, config, _ = read_checkpoint(out)  # what `sample` and `eval` do
    assert config.time_budget is None
    assert checkpoint.trainer.budget["time_budget"] == "4s"
    with pytest.raises(ConfigError, match="--resume keeps the saved time_budget 4s, got 9s; leave"):
        by_clock(resume=True, out=out, time_budget="9s")
    stop_after(10**9)
    run = by_clock(resume=True, out=out, time_budget="4s")
    assert_repeats(run, tmp_path, lines)


def test_a_run_by_the_clock_that_has_ended_resumes_to_its_own_result(by_clock, tmp_path):
    run = by_clock(time_budget="4s", out=str(tmp_path / "a"))
    before = weights(run.run)
    again = by_clock(resume=True, out=str(tmp_path / "a"))
    assert again.metrics["steps"] == run.metrics["steps"]
    assert weights(run.run) == before


def test_samples_end_with_the_budget(by_clock, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Deadline, "left_s", lambda self: 0.0)
    monkeypatch.setattr(Deadline, "reserve_s", 0.0)
    run = by_clock(time_budget="4s", out=str(tmp_path / "a"), max_new_tokens=200, num_samples=3)
    assert len(run.samples) == 3
    assert all(len(sample) <= 1 for sample in run.samples)


def test_a_saved_config_names_no_folder_and_that_of_an_older_version_is_not_used_again(tmp_path):
    known = options_of(TrainConfig)
    folder = tmp_path / "old"
    folder.mkdir()
    text = f'steps = 3\nout = "{folder}"\nresume = false\n'
    (folder / "config.toml").write_text(text)
    assert read_config_file(str(folder / "config.toml"), known) == {"steps": 3}
    (tmp_path / "mine.toml").write_text(text)  # a file of the user means what it says
    expected = {"steps": 3, "out": str(folder), "resume": False}
    assert read_config_file(str(tmp_path / "mine.toml"), known) == expected


@pytest.mark.parametrize("fits", [True, False])
def test_a_score_of_a_part_of_the_validation_text_is_told(by_clock, tmp_path, monkeypatch, fits):
    notes: list[str] = []
    monkeypatch.setattr(Deadline, "scores_all", fits)
    monkeypatch.setattr(Terminal, "note", lambda self, text: notes.append(text))
    run = by_clock(time_budget="4s", out=str(tmp_path / "a"), eval_tokens=100)
    val_tokens = read_checkpoint("last", str(run.run))[0].data["val_tokens"]
    told = (
        "no time left to score all validation text: its figures are those of about 100 of"
        f" {val_tokens:,} tokens; `nanochat eval` scores all"
    )
    assert [note for note in notes if note.startswith("no time left")] == ([] if fits else [told])
