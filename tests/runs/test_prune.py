"""Removing runs and checkpoints: what goes, what stays, what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from runs.saved_checkpoints import copy_as

from nanochat.config.keep import Keep, parse_keep
from nanochat.errors import OutputError
from nanochat.runs import checkpoint
from nanochat.runs.find import step_folders
from nanochat.runs.folder import RUN_FILES
from nanochat.runs.lock import locked
from nanochat.runs.prune import prune_run, removable_run, remove_run
from nanochat.runs.summary import folder_bytes


@pytest.fixture
def runs(trained_gpt, tmp_path, monkeypatch):
    """A working folder with the run `runs/kjv` and checkpoints of steps 10, 20, … 60, of which
    none is marked as the best."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_gpt.path, "runs/kjv")
    checkpoints = Path("runs/kjv/checkpoints")
    (checkpoints / "best").unlink()
    for step in (0, 20):
        shutil.rmtree(checkpoints / f"step-{step:06d}")
    for step in (10, 20, 30, 50, 60):
        copy_as(checkpoints / "step-000040", step)
    Path("runs/kjv/metrics.jsonl").write_text("")
    return Path("runs")


def mark_best(runs, step):
    checkpoint.mark_best(runs / "kjv" / "checkpoints" / f"step-{step:06d}", 2.5)


def damage(runs, step):
    file = runs / "kjv" / "checkpoints" / f"step-{step:06d}" / "trainer.json"
    file.write_bytes(file.read_bytes()[:-1])


def steps(runs):
    return list(step_folders(runs / "kjv"))


@pytest.mark.parametrize(("keep", "best", "left"), [
    ("last:3", None, [40, 50, 60]),
    ("last:2,best", 20, [20, 50, 60]),
    ("best", 20, [20, 60]),
    ("last:1", 20, [20, 60]),  # the best stays even if keep does not name it
    ("last:99", 20, [10, 20, 30, 40, 50, 60]),
])  # fmt: skip
def test_pruning_keeps_the_named_checkpoints(runs, keep, best, left):
    if best:
        mark_best(runs, best)
    before = folder_bytes(runs / "kjv")
    pruned = prune_run(runs / "kjv", parse_keep(keep))
    assert steps(runs) == pruned.kept == left
    assert pruned.removed == [step for step in range(10, 70, 10) if step not in left]
    assert pruned.freed_bytes == before - folder_bytes(runs / "kjv")
    assert {entry.name for entry in (runs / "kjv" / "checkpoints").iterdir()} - {"best"} == {
        f"step-{step:06d}" for step in left
    }


def test_the_newest_that_verifies_stays_and_damaged_newer_ones_are_told(runs):
    damage(runs, 50)
    damage(runs, 60)
    pruned = prune_run(runs / "kjv", Keep(1))
    assert steps(runs) == [40, 50, 60]
    assert [problem.partition("/trainer")[0][-2:] for problem in pruned.problems] == ["60", "50"]


def test_nothing_is_removed_where_no_checkpoint_verifies(runs):
    for step in steps(runs):
        damage(runs, step)
    assert prune_run(runs / "kjv", Keep(1)).removed == []
    assert len(steps(runs)) == 6


def test_without_a_mark_the_lowest_validation_loss_stays(runs):
    lines = [{"kind": "eval", "step": s, "val_loss": abs(s - 28) + 1.0} for s in range(0, 70, 10)]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (runs / "kjv" / "metrics.jsonl").write_text(text)
    prune_run(runs / "kjv", Keep(1))
    assert steps(runs) == [30, 60]


def test_a_run_that_is_being_written_is_not_pruned(runs):
    with (
        locked(runs / "kjv"),
        pytest.raises(OutputError, match=r"^(process \d+ on|another process)"),
    ):
        in_another_process(lambda: prune_run(runs / "kjv", Keep(1)))
    assert len(steps(runs)) == 6


def in_another_process(call):
    """Run `call` in a fork and raise the OutputError that it raised."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call()
        except OutputError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    if message:
        raise OutputError(message)


# ----------------------------------------------------------------------------------------- removal


@pytest.mark.parametrize("name", ["kjv", "runs/kjv", "runs/kjv/"])
def test_a_run_is_removed_with_everything_in_it(runs, name):
    size = folder_bytes(runs / "kjv")
    assert remove_run(removable_run(name, runs)) == size
    assert os.listdir(runs) == []


def test_links_inside_a_run_are_removed_and_not_followed(runs):
    Path("outside").mkdir()
    Path("outside/text.txt").write_text("keep me")
    shutil.rmtree(runs / "kjv" / "checkpoints")
    (runs / "kjv" / "checkpoints").symlink_to(Path("outside").resolve())
    (runs / "kjv" / "loss.svg").unlink()
    (runs / "kjv" / "loss.svg").symlink_to(Path("outside/text.txt").resolve())
    remove_run(removable_run("kjv", runs))
    assert Path("outside/text.txt").read_text() == "keep me"
    assert not (runs / "kjv").exists()


def test_a_link_to_a_run_is_refused(runs):
    (runs / "link").symlink_to("kjv")
    with pytest.raises(OutputError) as caught:
        removable_run("link", runs)
    assert str(caught.value) == (
        "runs/link is a link to kjv; name that folder, or remove the link with rm"
    )


@pytest.mark.parametrize("made", ["photos", "empty", "note.txt"])
def test_what_is_not_a_run_folder_is_refused(runs, made):
    path = runs / made
    if made == "note.txt":
        path.write_text("x")
    else:
        path.mkdir()
    if made == "photos":
        (path / "cat.jpg").write_text("x")
    with pytest.raises(
        OutputError, match=f"^runs/{made} is not a run folder, so it is not removed$"
    ):
        removable_run(made, runs)
    assert path.exists()


def test_a_run_that_holds_a_file_of_the_user_is_refused(runs):
    (runs / "kjv" / "notes.md").write_text("x")
    with pytest.raises(OutputError) as caught:
        removable_run("kjv", runs)
    assert str(caught.value) == (
        "runs/kjv holds notes.md, which no run wrote; move it elsewhere first"
    )


def test_a_missing_run_is_named_with_the_closest_one(runs):
    with pytest.raises(OutputError, match=r"^no run kvj here or in runs \(did you mean 'kjv'\?\)$"):
        removable_run("kvj", runs)


def test_a_removal_that_is_cut_short_can_be_repeated(runs, monkeypatch):
    def fail(path, **_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", fail)
        with pytest.raises(OutputError, match="^cannot remove runs/kjv: Permission denied$"):
            remove_run(removable_run("kjv", runs))
    assert set(os.listdir(runs / "kjv")) <= RUN_FILES
    remove_run(removable_run("kjv", runs))
    assert os.listdir(runs) == []


def test_a_run_that_is_being_written_is_not_removed(runs):
    with (
        locked(runs / "kjv"),
        pytest.raises(OutputError, match=r"^(process \d+ on|another process)"),
    ):
        in_another_process(lambda: remove_run(removable_run("kjv", runs)))
    assert (runs / "kjv" / "config.toml").exists()
