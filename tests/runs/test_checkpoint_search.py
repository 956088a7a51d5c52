"""Finding a checkpoint: the newest, the best, by name and by path, past damaged ones."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from runs.saved_checkpoints import CutOff, damage, names, no_space, save, state, trainer

from nanochat.errors import CheckpointError, OutputError
from nanochat.runs.checkpoint import (
    find_checkpoint,
    mark_best,
    newest_checkpoint,
    read_best,
    remove_checkpoint,
    resolve_checkpoint,
)


def test_the_newest_is_the_one_of_the_most_steps_not_of_the_largest_name(tmp_path):
    for step in (999_999, 1_000_000, 5):
        save(tmp_path, step)
    assert newest_checkpoint(tmp_path)[0].trainer.step == 1_000_000


def test_damaged_newer_ones_are_skipped_newest_first_each_with_its_reason(tmp_path):
    paths = [save(tmp_path, step) for step in (10, 20, 30)]
    (tmp_path / "notes").mkdir()
    (tmp_path / "step-000040").write_text("a file")
    reasons = [damage(paths[2]), damage(paths[1])]
    found, skipped = newest_checkpoint(tmp_path)
    assert found.path == paths[0]
    assert skipped == reasons


def test_when_none_is_whole_every_reason_is_given(tmp_path):
    reasons = [damage(save(tmp_path, 20)), damage(save(tmp_path, 10))]
    with pytest.raises(CheckpointError) as caught:
        newest_checkpoint(tmp_path)
    assert str(caught.value) == f"{tmp_path} holds no complete checkpoint: {'; '.join(reasons)}"


@pytest.mark.parametrize("made", [True, False])
def test_a_directory_without_checkpoints_holds_none(tmp_path, made):
    directory = tmp_path / "checkpoints"
    if made:
        directory.mkdir()
    with pytest.raises(CheckpointError) as caught:
        newest_checkpoint(directory)
    assert str(caught.value) == (
        f"{directory} holds no checkpoint; the run ended before its first one, so start it again"
        " without --resume"
    )


def test_a_step_folder_a_checkpoints_folder_and_a_run_folder_resolve(tmp_path):
    first = save(tmp_path / "run" / "checkpoints", 10)
    last = save(tmp_path / "run" / "checkpoints", 20)
    assert resolve_checkpoint(first, tmp_path)[0].path == first
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", last):
        assert resolve_checkpoint(path, tmp_path)[0].path == last


def test_a_named_step_folder_is_not_replaced_by_an_older_one(tmp_path):
    save(tmp_path, 10)
    path = save(tmp_path, 20)
    reason = damage(path)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(path, tmp_path)
    assert str(caught.value) == reason
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        resolve_checkpoint(path, tmp_path)


def test_a_moved_and_renamed_checkpoint_folder_resolves(tmp_path):
    path = save(tmp_path, 10).rename(tmp_path / "best")
    assert resolve_checkpoint(path, tmp_path)[0].trainer.step == 10


def test_without_a_path_the_run_that_saved_last_is_taken_and_its_skips_reported(tmp_path):
    for age, run in ((3, "a"), (1, "b"), (2, "c")):
        path = save(tmp_path / run / "checkpoints", 10)
        os.utime(path, (1e9 - age, 1e9 - age))
    reason = damage(path := save(tmp_path / "b" / "checkpoints", 20))
    os.utime(path, (1e9, 1e9))
    (tmp_path / "z").mkdir()
    (tmp_path / "zz").write_text("")
    found, skipped = resolve_checkpoint(None, tmp_path)
    assert found.path == tmp_path / "b" / "checkpoints" / "step-000010"
    assert skipped == [reason]


@pytest.mark.parametrize("made", [True, False])
def test_without_runs_a_way_out_is_named(tmp_path, made):
    runs = tmp_path / "runs"
    if made:
        (runs / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(None, runs)
    assert str(caught.value) == (
        f"{runs} holds no run with a checkpoint; train one first or name a checkpoint"
    )


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(tmp_path / "gone", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/gone does not exist; give a run folder or a checkpoint folder"
    )


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(tmp_path, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no checkpoint; give a run folder or a checkpoint folder"
    )


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(None, tmp_path)
    assert str(caught.value) == f"cannot read {tmp_path}: Permission denied"


# --------------------------------------------------------------------------------- finding by name


@pytest.fixture
def three_steps(tmp_path):
    """A run with checkpoints of 10, 20 and 30 steps, of which 20 is the best."""
    directory = tmp_path / "run" / "checkpoints"
    paths = {step: save(directory, step) for step in (10, 20, 30)}
    mark_best(paths[20], 1.5)
    return tmp_path / "run", paths


@pytest.mark.parametrize(
    ("which", "step"), [("best", 20), ("last", 30), ("10", 10), ("000010", 10), ("step-000020", 20)]
)
def test_a_name_finds_its_checkpoint(three_steps, which, step):
    run, paths = three_steps
    found = find_checkpoint(run, which)
    assert (found.path, found.trainer.step, found.skipped) == (paths[step], step, [])


def test_a_path_finds_its_checkpoint_in_any_run(three_steps, tmp_path):
    run, paths = three_steps
    other = tmp_path / "other"
    for path, step in (
        (paths[10], 10), (run, 20), (run / "checkpoints", 20), (run / "checkpoints" / "best", 20),
    ):  # fmt: skip
        assert find_checkpoint(other, str(path)).trainer.step == step


def test_the_file_best_names_step_loss_and_weights(three_steps):
    run, paths = three_steps
    weights = hashlib.sha256((paths[20] / "weights.safetensors").read_bytes()).hexdigest()
    assert json.loads((run / "checkpoints" / "best").read_text()) == {
        "format": "nanochat best checkpoint", "version": 1, "step": 20, "val_loss": 1.5,
        "weights_sha256": weights,
    }  # fmt: skip
    mark_best(paths[30], None)
    assert (read_best(run / "checkpoints").step, find_checkpoint(run, "best").path) == (
        30, paths[30],
    )  # fmt: skip


def replaced_by(reason: str) -> list[str]:
    return [f"{reason}; using the newest checkpoint instead, step-000030"]


def test_without_the_file_best_the_newest_is_found_with_the_reason(three_steps):
    run, paths = three_steps
    best = run / "checkpoints" / "best"
    best.unlink()
    found = find_checkpoint(run, "best")
    assert (found.path, found.skipped) == (paths[30], replaced_by(f"{best} is missing"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}', b'"best"',
     b'{"format": "nanochat best checkpoint", "version": 1, "step": "20", "val_loss": 1,'
     b' "weights_sha256": ""}'],
)  # fmt: skip
def test_a_damaged_file_best_is_passed_over_with_the_reason(three_steps, content):
    run, paths = three_steps
    best = run / "checkpoints" / "best"
    best.write_bytes(content)
    found = find_checkpoint(run, "best")
    reason = f"{best} is damaged: it does not name a checkpoint"
    assert (found.path, found.skipped) == (paths[30], replaced_by(reason))
    with pytest.raises(CheckpointError) as caught:  # a file that is named must be sound
        find_checkpoint(run, str(best))
    assert str(caught.value) == reason


def test_every_flipped_bit_of_the_file_best_finds_a_whole_checkpoint(three_steps):
    run, _ = three_steps
    best = run / "checkpoints" / "best"
    content = best.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        best.write_bytes(damaged)
        found = find_checkpoint(run, "best")
        assert found.trainer.step == (30 if found.skipped else 20)


def test_a_file_best_of_the_future_is_passed_over_by_number(three_steps):
    run, _ = three_steps
    best = run / "checkpoints" / "best"
    best.write_text(best.read_text().replace('"version": 1', '"version": 2'))
    assert find_checkpoint(run, "best").skipped == replaced_by(
        f"{best} must have format 'nanochat best checkpoint' version 1, got"
        " 'nanochat best checkpoint' version 2; use the nanochat that saved it"
    )


def test_a_best_checkpoint_that_is_damaged_gone_or_another_is_passed_over(three_steps):
    run, paths = three_steps
    reason = damage(paths[20])
    assert find_checkpoint(run, "best").skipped == replaced_by(reason)
    save(run / "checkpoints", 20, state=state(seed=9))
    assert find_checkpoint(run, "best").skipped == replaced_by(
        f"{paths[20]} has other weights than {run}/checkpoints/best names"
    )
    shutil.rmtree(paths[20])
    assert find_checkpoint(run, "best").skipped == replaced_by(
        f"{run}/checkpoints must hold the checkpoint of step 20, got steps 10, 30; use one of"
        " them, best or last"
    )


def test_a_best_that_was_saved_again_with_the_same_weights_is_still_the_best(three_steps):
    run, paths = three_steps
    save(run / "checkpoints", 20, trainer=trainer(20, elapsed_s=99.0))
    found = find_checkpoint(run, "best")
    assert (found.path, found.skipped) == (paths[20], [])


def test_each_failure_of_a_search_is_one_clear_line(three_steps, tmp_path):
    run, paths = three_steps
    directory = run / "checkpoints"
    reasons = {step: damage(path) for step, path in paths.items()}
    newest = "; ".join(reasons[step] for step in (30, 20, 10))
    for where, which, message in (
        (tmp_path / "gone", "best", f"run {tmp_path}/gone does not exist; give the folder of a run"),
        (run, "20", reasons[20]),
        (run, "last", f"{directory} holds no complete checkpoint: {newest}"),
        (run, "best", f"{directory} holds no complete checkpoint: {newest}"),
        (run, "25",
         f"{directory} must hold the checkpoint of step 25, got steps 10, 20, 30; use one of them,"
         " best or last"),
        (run, "first", "first does not exist; give a run folder or a checkpoint folder"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(where, which)
        assert str(caught.value) == message


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("error", [KeyboardInterrupt, no_space])
def test_a_mark_cut_off_at_any_moment_names_the_old_or_the_new(three_steps, monkeypatch, error, at):
    run, paths = three_steps
    with monkeypatch.context() as patch:
        replace = os.replace
        cut = CutOff(patch, error(), at)
        patch.setattr(os, "replace", cut.wrap(replace))
        with pytest.raises((KeyboardInterrupt, OutputError)):
            mark_best(paths[30], 1.0)
    found = find_checkpoint(run, "best")
    assert (found.path, found.skipped) == (paths[30 if at > 3 else 20], [])
    assert names(run / "checkpoints") == ["best", "step-000010", "step-000020", "step-000030"]


def test_a_removal_cut_short_leaves_no_damaged_checkpoint(three_steps, monkeypatch):
    run, paths = three_steps

    def interrupt(path, **_options):
        (path / "manifest.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            remove_checkpoint(paths[30])
    found = find_checkpoint(run, "last")
    assert (found.path, found.skipped) == (paths[20], [])
    save(run / "checkpoints", 40)
    assert names(run / "checkpoints") == ["best", "step-000010", "step-000020", "step-000040"]
