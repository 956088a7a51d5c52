"""The end of a run in four lines: the figures are those of the log, the commands can be run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.output.run_summary import Score, run_summary, scores_of


def score(step, loss, bpb=None):
    return Score(step=step, loss=loss, bpb=bpb)


def lines(**changes):
    options = {
        "folder": Path("runs/a"), "val_source": "val", "val_loss": 2.0,
        "val_bpb": 3.125, "steps": 600,
        "evaluations": [score(0, 3.3, 4.75), score(300, 2.5, 3.5), score(600, 2.0, 3.125)],
    }  # fmt: skip
    return run_summary(**{**options, **changes})


def test_the_end_of_a_run_is_four_lines():
    assert lines(counting_bpb=3.25) == [
        "validation 3.125 bits per byte (counting: 3.250, before training: 4.750); best at step 600"
        " of 600",
        "loss curve: runs/a/loss.svg",
        "write text: nanochat sample runs/a",
        "train longer: nanochat train --init-from runs/a",
    ]


OVERFIT = [score(0, 3.3, 4.75), score(60, 1.9, 3.0), score(120, 1.9, 3.0), score(600, 5.5, 8.0)]
RESULTS = {
    "validation 3.125 bits per byte (before training: 4.750); best at step 600 of 600": {},
    "validation 3.125 bits per byte; best at step 600 of 600": {
        "evaluations": [score(600, 2.0, 3.125)]
    },
    "validation 3.125 bits per byte (before training: 4.750); best at step 60 of 600": {
        "evaluations": OVERFIT
    },
    "training text 3.125 bits per byte (before training: 4.750); best at step 600 of 600": {
        "val_source": "train"
    },
    "validation 2.000 nats per token (before training: 3.300); best at step 600 of 600": {
        "val_bpb": None, "counting_bpb": 3.0
    },
    "validation 3.125 bits per byte": {"steps": 0, "evaluations": [score(0, 2.0, 3.125)]},
    "no validation text; training loss 2.500 nats per token": {
        "val_loss": None, "val_bpb": None, "evaluations": [], "train_loss": 2.5
    },
    "no validation text": {"val_loss": None, "val_bpb": None, "evaluations": []},
}  # fmt: skip


@pytest.mark.parametrize(("text", "changes"), list(RESULTS.items()))
def test_the_result_says_what_is_known(text, changes):
    assert lines(**changes)[0] == text


@pytest.mark.parametrize("changes", [{"evaluations": OVERFIT}, {"enough": True}])
def test_a_text_that_gives_no_more_sends_to_more_text(changes):
    on_more = "train on more text: nanochat train MORE.txt --init-from runs/a"
    assert lines(**changes)[3] == on_more


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20).filter(lambda name: "\0" not in name))
def test_commands_name_the_run_as_a_shell_reads_it(name):
    _, _, sample, train = lines(folder=Path("runs", name))
    folder = str(Path("runs", name))
    assert shlex.split(sample.removeprefix("write text: ")) == [
        "nanochat", "sample", folder,
    ]  # fmt: skip
    assert shlex.split(train.removeprefix("train longer: ")) == [
        "nanochat", "train", "--init-from", folder,
    ]  # fmt: skip


def test_scores_are_the_finite_evaluations_of_the_log(tmp_path):
    records = [
        {"kind": "eval", "step": 0, "val_loss": 3.5, "val_bpb": 5.0},
        {"kind": "step", "step": 1, "loss": 2.0, "grad_norm": 1.0, "lr": 0.1},
        {"kind": "eval", "step": 1, "val_loss": "nan", "val_bpb": "nan"},
        {"kind": "eval", "step": 2, "val_loss": None, "val_bpb": None},
        {"kind": "eval", "step": 3, "val_loss": 2.5, "val_bpb": None},
    ]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records))
    assert scores_of(log) == [score(0, 3.5, 5.0), score(3, 2.5)]


def test_the_scores_of_a_real_run_are_those_of_its_log(trained):
    log = trained.path / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    expected = [
        score(each["step"], each["val_loss"], each["val_bpb"])
        for each in records
        if each["kind"] == "eval"
    ]
    assert scores_of(log) == expected
    assert len(expected) >= 2
