"""history.safetensors: a run writes it, commands read it, and damaged or foreign ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

import nanochat
from nanochat.errors import CheckpointError, ConfigError, RunInterrupted
from nanochat.model.parameters import Spec
from nanochat.runs.history import read_history, write_history
from nanochat.training.engine import RECORDED
from nanochat.training.history import History, Table

SPECS = (
    Spec(name="wte", shape=(3, 2), std=0.1, group="embedding"),
    Spec(name="fc", shape=(1, 2), std=0.1, group="matrix"),
)
SIZE = 8


def table(indices, steps, dtype):
    shape = (len(steps), len(indices), len(RECORDED))
    numbers = np.arange(np.prod(shape)).reshape(shape).astype(dtype) / 7
    rates = np.arange(3.0 * len(steps)).reshape(len(steps), 3)
    return Table(np.array(indices, dtype=np.int64), np.array(steps, dtype=np.int64), rates, numbers)


def history(every=True):
    of_all = table(range(SIZE), [1, 5, 9], np.float32) if every else None
    return History(SPECS, table([6, 1], [1, 2, 3, 9], np.float64), of_all)


def assert_equal(found, expected):
    for one, other in zip(
        (found.chosen, found.every), (expected.chosen, expected.every), strict=True
    ):
        assert (one is None) == (other is None)
        for part in ("indices", "steps", "rates", "numbers") if one is not None else ():
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part), strict=True)


@pytest.mark.parametrize("every", [True, False])
def test_a_history_is_read_as_it_was_written(tmp_path, every):
    write_history(tmp_path, history(every))
    assert_equal(read_history(tmp_path, SPECS), history(every))
    assert [path.name for path in tmp_path.iterdir()] == ["history.safetensors"]


def test_a_run_without_one_has_none(tmp_path):
    assert read_history(tmp_path, SPECS) is None


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    write_history(folder, history())
    return (folder / "history.safetensors").read_bytes()


@given(st.data())
def test_any_changed_bit_and_any_shorter_file_is_refused(tmp_path_factory, content, data):
    folder = tmp_path_factory.mktemp("damaged")
    if data.draw(st.booleans()):
        damaged = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        damaged = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    (folder / "history.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError) as caught:
        read_history(folder, SPECS)
    start = f"{folder / 'history.safetensors'} is damaged or of another model: it "
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


# What a file from elsewhere may have, with a SHA-256 that is right.
FOREIGN = {
    "of another model": ({}, (SPECS[1],), "must have different chosen.indices below 2"),
    "an unknown array": ({"more": np.zeros(1)}, SPECS, "must not have the array 'more'"),
    "no steps": ({"chosen.steps": None}, SPECS, "must have the array chosen.steps, got none"),
    "half a table": ({"every.rates": None}, SPECS, "must have the array every.rates, got none"),
    "another type": ({"chosen.weight": np.zeros((4, 2), np.float32)}, SPECS,
                     "must have chosen.weight of float64"),
    "another shape": ({"chosen.weight": np.zeros((4, 3))}, SPECS,
                      "must have as many numbers as chosen.steps and chosen.indices say"),
    "steps in another order": ({"chosen.steps": np.array([1, 3, 2, 9])}, SPECS,
                               "must have increasing chosen.steps from 1"),
    "a step 0": ({"every.steps": np.array([0, 5, 9])}, SPECS,
                 "must have increasing every.steps from 1"),
    "a parameter twice": ({"chosen.indices": np.array([1, 1])}, SPECS,
                          "must have different chosen.indices below 8"),
    "a negative index": ({"chosen.indices": np.array([1, -1])}, SPECS,
                         "must have different chosen.indices below 8"),
    "parameters in another order": ({"every.indices": np.arange(8)[::-1].copy()}, SPECS,
                                    "must have all 8 parameters of the model"),
    "steps that wrap": ({"chosen.steps": np.array([1, 2, 2**63 - 1, -(2**63)])}, SPECS,
                        "must have increasing chosen.steps from 1"),
    "a weight of NaN": ({"chosen.weight": np.full((4, 2), np.nan)}, SPECS,
                                   "must have finite numbers in chosen.weight"),
    "an infinite rate": ({"every.rates": np.full((3, 3), np.inf)}, SPECS,
                         "must have finite numbers in every.rates"),
    "no parameter": ({"chosen.indices": np.zeros(0, np.int64)}, SPECS,
                     "must have lists of chosen.indices and chosen.steps"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_from_elsewhere_is_refused(tmp_path, content, name):
    changes, specs, reason = FOREIGN[name]
    from nanochat.runs.history import _digest

    arrays = {**load(content), **changes}
    arrays = {n: a for n, a in arrays.items() if a is not None and n != "sha256"}
    path = tmp_path / "history.safetensors"
    path.write_bytes(save({**arrays, "sha256": _digest(arrays)}))
    with pytest.raises(CheckpointError) as caught:
        read_history(tmp_path, specs)
    assert str(caught.value) == f"{path} is damaged or of another model: it {reason}"


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "history.safetensors"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError) as caught:
        read_history(tmp_path, SPECS)
    assert str(caught.value) == (
        f"cannot read {path}: it must have at most 51,380,224 bytes, got 1,099,511,627,776"
    )


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def train(folder, tiny):
    def trained(out, **options):
        base = tiny(model_kind="mini-gpt", out=f"runs/{out}", num_samples=0, steps=40)
        return nanochat.train(nanochat.TrainConfig(**{**base, "record": "auto", **options}))

    return trained


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_recording_leaves_a_run_as_it_is(train, mode):
    train("recorded", mode=mode)
    train("plain", mode=mode, record="none")
    weights, plain = (
        Path(f"runs/{name}/checkpoints/step-000040/weights.safetensors").read_bytes()
        for name in ("recorded", "plain")
    )
    assert weights == plain
    assert not Path("runs/plain/history.safetensors").exists()
    one = nanochat.load("runs/recorded", checkpoint="last").history.parameter("wte", 4, 1)
    assert one.steps.tolist() == list(range(1, 41))
    weights = nanochat.load("runs/recorded", checkpoint="last").weights
    assert one.weight[-1] + one.update[-1] == pytest.approx(weights["wte"][4, 1], abs=1e-7)


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_a_stopped_and_resumed_run_has_the_same_history(train, mode, stop_after):
    train("whole", mode=mode)
    stop_after(13)
    with pytest.raises(RunInterrupted):
        train("cut", mode=mode)
    stop_after(10**9)
    nanochat.train(nanochat.TrainConfig(resume=True, out="runs/cut"))
    assert nanochat.load("runs/cut").history.chosen.steps.tolist() == list(range(1, 41))
    whole, cut = (
        Path(f"runs/{name}/history.safetensors").read_bytes() for name in ("whole", "cut")
    )
    assert cut == whole


def test_a_resume_without_the_file_records_from_there_and_says_so(train, stop_after, cli):
    stop_after(13)
    with pytest.raises(RunInterrupted):
        train("cut")
    stop_after(10**9)
    path = Path("runs/cut/history.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert cli("info", "runs/cut").code == 1
    result = cli("train", "--resume", "--out", "runs/cut")
    assert result.code == 0
    (warning,) = [line for line in result.err.splitlines() if "history" in line]
    assert warning.startswith(f"warning: {path} is damaged or of another model: it must have ")
    assert warning.endswith("; recording begins after step 13")
    assert nanochat.load("runs/cut").history.chosen.steps[0] == 14
    assert cli("info", "runs/cut").code == 0


def test_a_resume_with_other_parameters_is_refused_and_loses_nothing(train, stop_after, cli):
    stop_after(13)
    with pytest.raises(RunInterrupted):
        train("cut", record="wte[4,0],wte[0,1]")
    stop_after(10**9)
    path = Path("runs/cut/history.safetensors")
    before = path.read_bytes()
    result = cli("train", "--resume", "--out", "runs/cut", "--record", "wte[0,1]")
    assert (result.code, result.err.splitlines()[-1]) == (
        2, "error: record must name the same parameters in the whole run, got wte[0,1] after"
        " wte[4,0],wte[0,1]; leave it out to go on, or use record none",
    )  # fmt: skip
    assert path.read_bytes() == before
    assert cli("train", "--resume", "--out", "runs/cut", "--record", "none").code == 0
    assert path.read_bytes() == before


def test_a_resume_may_begin_to_record_and_says_from_where(train, stop_after, cli):
    stop_after(13)
    with pytest.raises(RunInterrupted):
        train("cut", record="none")
    stop_after(10**9)
    result = cli("train", "--resume", "--out", "runs/cut", "--record", "wte[0,1]")
    assert result.code == 0
    assert "the run has recorded nothing so far; recording begins after step 13" in result.err
    history = nanochat.load("runs/cut").history
    assert [str(place) for place in history.places] == ["wte[0,1]"]
    assert history.chosen.steps[0] == 14


def test_a_parameter_that_the_model_lacks_ends_the_command_before_training(
    folder, cli, flags, tiny
):
    words = flags(**tiny(model_kind="mini-gpt", out="runs/no"))
    result = cli("train", *words, "--record", "wte[999,0]")
    assert (result.code, result.err.splitlines()[-1]) == (
        2, "error: record must name parameters of the model, got wte[999,0]; wte has 13 rows and 4"
        " columns",
    )  # fmt: skip
    assert not Path("runs/no").exists()


def test_a_run_that_recorded_nothing_says_how_to(train, cli):
    train("plain", record="none")
    with pytest.raises(CheckpointError) as caught:
        _ = nanochat.load("runs/plain").history
    assert str(caught.value) == (
        "runs/plain has recorded no parameter; train with record='auto' or the names of some"
    )
    out = cli("inspect", "runs/plain", "--text", "anna", "--view", "parameter").out
    assert out.startswith("the run has recorded no parameter; nanochat train --record auto keeps")


def test_inspect_prints_and_shows_the_recorded_numbers(train, cli):
    train("recorded")
    result = cli("inspect", "runs/recorded", "--text", "anna", "--view", "parameter")
    history = nanochat.load("runs/recorded").history
    place = history.places[0]
    one = history.parameter(*place)
    row = next(line for line in result.out.splitlines() if line.startswith(str(place))).split()
    assert row[1:3] == [f"{one.weight[0]:.3g}", f"{one.weight[-1] + one.update[-1]:.3g}"]
    assert max(map(len, result.out.splitlines())) <= 80
    found = facts_of_page(Path("runs/recorded/inspect.html"))["history"]
    assert [tuple(each.values()) for each in found["chosen"]] == list(history.places)
    assert [table["steps"] for table in found["tables"]] == [
        history.chosen.steps.tolist(), history.every.steps.tolist(),
    ]  # fmt: skip


def test_a_loaded_history_names_its_run(train):
    train("recorded")
    history = nanochat.load("runs/recorded").history
    steps, every = len(history.chosen.steps), history.every.steps
    size = len(history.every.indices)
    assert repr(history) == (
        f"History(runs/recorded: {len(history.places)} parameters at {steps} steps from 1 to"
        f" {steps}; all {size} at {len(every)} steps from {every[0]} to {every[-1]})"
    )


def test_a_page_with_room_for_fewer_steps_says_how_many_it_shows(train, cli):
    train("recorded")
    history = nanochat.load("runs/recorded").history
    recorded, places = len(history.chosen.steps), len(history.places)
    most = 4 * 2 * places * len(RECORDED)  # a quarter is for the chosen: two steps of them
    words = ("inspect", "runs/recorded", "--text", "anna", "--view", "parameter")
    end = cli(*words).out.splitlines()[-2:]
    assert end == [
        f"parameter history: {recorded} recorded steps from 1 to {recorded}",
        "gradients, moments and updates are on the page",
    ]
    assert cli(*words, "--max-numbers", str(most)).out.splitlines()[-3:] == [
        end[0], f"{end[1]}, for 2 of these steps;", "--max-numbers adds more",
    ]  # fmt: skip
    found = facts_of_page(Path("runs/recorded/inspect.html"))["history"]
    (table,) = found["tables"]
    assert len(table["steps"]) == 2
    assert table["notes"] == [
        f"2 of {recorded} recorded steps are shown; --max-numbers adds more.",
        f"The run also recorded all parameters at {len(history.every.steps)} steps, which are not"
        " shown; --max-numbers adds them.",
    ]


def facts_of_page(path):
    page = path.read_text(encoding="utf-8")
    text = page.split('<script type="application/json" id="facts">', 1)[1].split("</script>", 1)[0]
    return json.loads(text)


def test_another_place_than_the_recorded_ones_is_refused_by_name(train):
    train("recorded")
    history = nanochat.load("runs/recorded").history
    with pytest.raises(
        ConfigError, match=r"^record must name matrices of the model, which are wte"
    ):
        history.parameter("nothing", 0, 0)
