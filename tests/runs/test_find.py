"""Which run and which checkpoint a name means."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from nanochat.errors import CheckpointError
from nanochat.runs.checkpoint import find_checkpoint, mark_best
from nanochat.runs.find import (
    find_run,
    marked_step,
    newest_finished_run,
    run_names,
    step_folders,
)
from nanochat.runs.load import read_checkpoint

MARK = (
    '{"format": "nanochat best checkpoint", "version": %s, "step": %s, "val_loss": 2.5,'
    ' "weights_sha256": ""}'
)


@pytest.fixture
def runs(trained_gpt, tmp_path, monkeypatch):
    """A working folder with the finished run `runs/kjv` with checkpoints 0, 20 and 40, of which
    20 is the best."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_gpt.path, "runs/kjv")
    mark_best(Path("runs/kjv/checkpoints/step-000020"), 2.5)
    return Path("runs")


def add(runs, name, finished_at=None):
    """Copy kjv as another run that finished at a time, or never."""
    shutil.copytree(runs / "kjv", runs / name)
    if finished_at is None:
        (runs / name / "result.json").unlink()
    else:
        os.utime(runs / name / "result.json", (finished_at, finished_at))
    return runs / name


def step_of(*choice, **run):
    return read_checkpoint(*choice, **run)[0].trainer.step


@pytest.mark.parametrize("name", ["kjv", "runs/kjv", "./runs/kjv", "runs/kjv/"])
def test_a_run_is_named_by_its_name_or_a_path(runs, name):
    assert find_run(name, runs).resolve() == (runs / "kjv").resolve()
    assert step_of(run=name) == 20


def test_a_folder_of_the_same_name_that_holds_no_run_does_not_hide_a_run(runs):
    Path("kjv").mkdir()
    assert find_run("kjv", runs) == runs / "kjv"


def test_without_a_name_the_run_that_finished_last_is_taken(runs):
    os.utime(runs / "kjv" / "result.json", (1e9, 1e9))
    add(runs, "a", 1e9 + 5)
    add(runs, "b", 1e9 + 3)
    add(runs, "interrupted")
    (runs / "empty").mkdir()
    (runs / "note.txt").write_text("")
    assert newest_finished_run(runs) == runs / "a"
    assert read_checkpoint()[0].path.parts[1] == "a"


def test_an_unfinished_run_is_taken_only_by_name(runs):
    add(runs, "half")
    shutil.rmtree(runs / "kjv")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint()
    assert str(caught.value) == (
        "runs holds no finished run; name the unfinished run half, or finish it with"
        " `nanochat train --resume --out runs/half`"
    )
    assert step_of(run="half") == 20


@pytest.mark.parametrize(
    ("name", "hint"),
    [("kvj", " (did you mean 'kjv'?)"), ("zzz", "; `nanochat runs` lists the runs")],
)
def test_a_missing_run_is_named_with_the_closest_one(runs, name, hint):
    with pytest.raises(CheckpointError) as caught:
        find_run(name, runs)
    assert str(caught.value) == f"no run {name} here or in runs{hint}"


@pytest.mark.parametrize(("which", "step"), [("best", 20), ("last", 40), ("20", 20), ("040", 40)])
def test_a_checkpoint_of_a_run_is_chosen(runs, which, step):
    assert step_of(which, run="kjv") == step_of(which) == step
    assert find_checkpoint(runs / "kjv", which).trainer.step == step


def test_best_is_the_checkpoint_that_the_run_marks(runs):
    for step in (20, 0, 40):
        mark_best(runs / "kjv" / "checkpoints" / f"step-{step:06d}", 2.5)
        assert step_of(run="kjv") == step_of("best") == marked_step(runs / "kjv") == step
        assert find_checkpoint(runs / "kjv", "best").trainer.step == step
        assert step_of("last", run="kjv") == 40


@pytest.mark.parametrize(
    "mark", ["", "{", "[]", '{"step": 20}', '{"step": "20"}', "\x00", MARK % ("2", "20"),
             MARK % ("1", "30"), MARK % ("1", "true")],
)  # fmt: skip
def test_a_mark_that_names_no_checkpoint_is_none(runs, mark):
    (runs / "kjv" / "checkpoints" / "best").write_text(mark)
    assert marked_step(runs / "kjv") is None
    assert step_of(run="kjv") == 40


def test_a_damaged_best_gives_the_newest_with_the_reason(runs):
    checkpoints = runs / "kjv" / "checkpoints"
    (checkpoints / "step-000020" / "weights.safetensors").write_bytes(b"")
    found, _, skipped = read_checkpoint(run="kjv")
    assert found.trainer.step == 40
    assert skipped[0].endswith("; using the newest checkpoint instead, step-000040")


def test_the_older_spelling_names_a_run_or_a_checkpoint_by_path(runs):
    assert step_of("runs/kjv") == 20
    assert step_of("runs/kjv/checkpoints/step-000020") == 20
    assert step_of("runs/kjv/checkpoints") == 20
    assert step_of(run="runs/kjv/checkpoints/step-000020") == 20


@pytest.mark.parametrize(
    ("checkpoint", "run", "message"),
    [
        (
            "30", "kjv",
            "runs/kjv/checkpoints must hold the checkpoint of step 30, got steps 0, 20, 40; use one of"
            " them, best or last",
        ),
        (
            "runs/kjv", "kjv",
            "run kjv and checkpoint runs/kjv both name a model; leave one out, or give checkpoint"
            " as best, last or a step",
        ),
        (
            "last", "runs/kjv/checkpoints/step-000020",
            "runs/kjv/checkpoints/step-000020 is one checkpoint, got checkpoint last; leave it out"
            " or name the run",
        ),
        ("best", "note.pt", "note.pt is not a nanochat checkpoint folder; name the folder of a run (pickle files are never read)"),
    ],
)  # fmt: skip
def test_a_wrong_choice_names_what_there_is(runs, checkpoint, run, message):
    Path("note.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(checkpoint, run)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\x1b[2Jb", "..", "~", "kjv/../kjv/nothing"])
def test_any_name_is_found_or_refused_in_one_line(runs, name):
    with pytest.raises(CheckpointError) as caught:
        find_run(name, runs)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_hidden_folders_and_files_are_no_runs(runs):
    (runs / ".cache").mkdir()
    (runs / "x.txt").write_text("")
    assert run_names(runs) == ["kjv"]
    assert run_names(Path("nothing")) == []
    assert list(step_folders(runs / "kjv")) == [0, 20, 40]


def test_every_command_takes_a_run(runs, cli):
    sampled = cli("sample", "kjv", "--seed=3", "--quiet")
    assert (sampled.code, sampled.err) == (0, "")
    assert cli("sample", "--checkpoint=runs/kjv", "--seed=3", "--quiet").out == sampled.out
    scored = cli("eval", "kjv", "--checkpoint=20", "--json")
    assert json.loads(scored.out)["step"] == 20


def test_checkpoints_that_may_be_listed_and_not_entered_are_one_clear_line(runs, monkeypatch):
    """As in a folder with r and without x."""
    inside = str(runs / "kjv" / "checkpoints") + os.sep

    def refusing(found):
        def refuse(path, *words, **options):
            if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(inside):
                raise PermissionError(13, "Permission denied")
            return found(path, *words, **options)

        return refuse

    for name in ("stat", "open"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    for which in ("best", "last", "40"):
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(runs / "kjv", which)
        assert str(caught.value).endswith("manifest.json: Permission denied")
    with pytest.raises(CheckpointError, match=r"manifest\.json: Permission denied"):
        find_checkpoint(runs, str(runs / "kjv"))
