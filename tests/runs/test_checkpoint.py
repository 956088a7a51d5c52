"""Checkpoints: exact round trips, every kind of damage, every way a save can be cut off."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from nanochat.errors import CheckpointError, OutputError
from nanochat.runs import checkpoint as module
from nanochat.runs.checkpoint import (
    TrainerState,
    find_checkpoint,
    load_checkpoint,
    mark_best,
    newest_checkpoint,
    read_best,
    remove_checkpoint,
    resolve_checkpoint,
    save_checkpoint,
)
from nanochat.training.engine import EngineState

FILES = {
    "weights.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json", "data.json",
    "trainer.json", "manifest.json",
}  # fmt: skip
CONFIG = {"mode": "scalar", "lr": 0.1, "out": None, "resume": False}
TOKENIZER = {"kind": "char", "characters": "aé\u2028😀"}
DATA = {"val_source": "val", "split_sha256": "00ff", "start": [0]}


def trainer(step=123, **changes):
    values = {
        "step": step, "last_losses": [2.5, 0.1 + 0.2, 1e-300], "tokens": 10**12,
        "elapsed_s": 1.25, "metrics_length": 77,
    }  # fmt: skip
    return TrainerState(**{**values, **changes})


def state(dtype=np.float32, seed=0):
    generator = np.random.default_rng(seed)
    weights = {name: generator.normal(size=(3, 4)).astype(dtype) for name in ("wte", "layer0.wq")}
    return EngineState(
        weights=weights, optimizer={"m.wte": np.zeros((3, 4), dtype), "step": np.array([7.0])}
    )


def save(directory: Path, step=123, **changes) -> Path:
    values = {
        "config": CONFIG, "tokenizer": TOKENIZER, "data": DATA, "trainer": trainer(step),
        "state": state(seed=step),
    }  # fmt: skip
    return save_checkpoint(directory, **{**values, **changes})


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert left[name].shape == right[name].shape
        assert left[name].tobytes() == right[name].tobytes()


# -------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_and_optimizer_come_back_bit_for_bit(tmp_path, dtype):
    saved = state(dtype)
    tiny, largest = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    saved.weights["wte"].flat[:4] = [-largest, -0.0, largest, tiny]
    loaded = load_checkpoint(save(tmp_path, state=saved)).state
    same_bits(loaded.weights, saved.weights)
    same_bits(loaded.optimizer, saved.optimizer)


def test_everything_else_comes_back_equal(tmp_path):
    path = save(tmp_path)
    loaded = load_checkpoint(path)
    assert path == loaded.path == tmp_path / "step-000123"
    assert (loaded.config, loaded.tokenizer, loaded.data) == (CONFIG, TOKENIZER, DATA)
    assert loaded.trainer == trainer()


def test_views_are_saved_by_value_not_by_memory(tmp_path):
    whole = np.arange(24.0).reshape(4, 6)
    views = {"t": whole.T, "rows": whole[::2], "columns": whole[:, 1:3], "big": whole.astype(">f8")}
    loaded = load_checkpoint(save(tmp_path, state=EngineState(weights=views, optimizer={}))).state
    assert all(np.array_equal(loaded.weights[name], views[name]) for name in views)
    assert loaded.optimizer == {}


def test_empty_and_scalar_arrays_come_back(tmp_path):
    arrays = {"none": np.zeros((0, 4)), "scalar": np.array(3.5)}
    loaded = load_checkpoint(save(tmp_path, state=EngineState(weights=arrays, optimizer={}))).state
    same_bits(loaded.weights, arrays)


def test_loaded_arrays_can_be_written_to(tmp_path):
    for array in load_checkpoint(save(tmp_path)).state.weights.values():
        array += 1.0


def test_the_folder_holds_these_files_and_a_manifest_of_their_hashes(tmp_path):
    path = save(tmp_path / "new" / "checkpoints")
    assert set(names(path)) == FILES
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("nanochat checkpoint", 1)
    assert set(manifest["files"]) == FILES - {"manifest.json"}
    for name, entry in manifest["files"].items():
        content = (path / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_the_same_state_makes_the_same_bytes(tmp_path):
    first, second = save(tmp_path / "a"), save(tmp_path / "b")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("step", "name"), [(0, "step-000000"), (999_999, "step-999999"), (10**9, "step-1000000000")]
)
def test_folders_are_named_by_step(tmp_path, step, name):
    assert save(tmp_path, step).name == name


# ------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_one_flipped_bit_anywhere_is_found(tmp_path, name):
    file = save(tmp_path) / name
    content = file.read_bytes()
    for position in {0, len(content) // 2, len(content) - 1}:
        damaged = bytearray(content)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(file.parent)
        assert str(caught.value) == f"{file} is damaged: its SHA-256 differs from its manifest"
    file.write_bytes(content)
    load_checkpoint(file.parent)


def test_every_flipped_bit_of_the_manifest_is_found(tmp_path):
    file = save(tmp_path) / "manifest.json"
    content, unseen = file.read_bytes(), []
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            file.write_bytes(damaged)
            try:
                load_checkpoint(file.parent)
            except CheckpointError as error:
                if re.search(r"manifest|damaged", str(error)):
                    continue
            unseen.append((position, bit))
    assert not unseen


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_truncated_file_is_found_by_its_size(tmp_path, name):
    file = save(tmp_path) / name
    size = file.stat().st_size
    os.truncate(file, size - 1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(caught.value) == (
        f"{file} is damaged: its manifest says {size} bytes, got {size - 1}"
    )


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_missing_file_is_named(tmp_path, name):
    file = save(tmp_path) / name
    file.unlink()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(caught.value) == f"{file} is missing"


def test_a_missing_manifest_is_named(tmp_path):
    path = save(tmp_path)
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path}/manifest.json is missing; {path} is not a complete checkpoint folder"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}'])
def test_a_manifest_that_is_none_is_damaged(tmp_path, content):
    path = save(tmp_path)
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path}/manifest.json is damaged: it is not a checkpoint manifest"
    )


def test_a_manifest_that_was_edited_is_damaged(tmp_path):
    file = save(tmp_path) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(caught.value) == f"{file} is damaged: it differs from what nanochat wrote"


def test_a_version_of_the_future_is_refused_by_number(tmp_path):
    file = save(tmp_path) / "manifest.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(caught.value) == (
        f"{file} must have format 'nanochat checkpoint' version 1, got 'nanochat checkpoint'"
        " version 2; use the nanochat that saved it"
    )


def test_sound_files_with_other_contents_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_pack", lambda arrays: b"not safetensors")
    path = save(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path} was not written by nanochat: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = save(tmp_path)

    def refuse(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == f"cannot read {path}/manifest.json: Permission denied"


# -------------------------------------------------------------------------------- interrupted saves

WATCHED = (
    (os, "fsync"), (os, "rename"), (module, "write_durably"), (module, "sync_folder"),
)  # fmt: skip


class CutOff:
    """Counts the calls that a save is made of, and raises `error` at number `at`."""

    def __init__(self, monkeypatch, error=None, at=None):
        self.calls = 0
        self.error, self.at = error, at
        for owner, name in WATCHED:
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, function):
        def counted(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            return function(*args, **kwargs)

        return counted


# Seven files and two folders, each a call and an fsync, and a rename or two.
NEW_SAVE, REPLACING_SAVE = 19, 20


@pytest.mark.parametrize(("replacing", "calls"), [(False, NEW_SAVE), (True, REPLACING_SAVE)])
def test_a_save_is_made_of_this_many_calls(tmp_path, monkeypatch, replacing, calls):
    if replacing:
        save(tmp_path)
    counter = CutOff(monkeypatch)
    save(tmp_path)
    assert counter.calls == calls


def no_space():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("at", range(1, NEW_SAVE + 1))
def test_a_full_disk_at_any_moment_leaves_only_whole_checkpoints(tmp_path, monkeypatch, at):
    earlier = save(tmp_path, 100)
    with monkeypatch.context() as patch:
        CutOff(patch, no_space(), at)
        with pytest.raises(OutputError) as caught:
            save(tmp_path)
    assert str(caught.value) == (
        f"cannot write {tmp_path}/step-000123: No space left on device;"
        " free some space or choose another out"
    )
    named = at > NEW_SAVE - 2  # only the parent's entry was left to force to disk
    assert names(tmp_path) == ["step-000100", *["step-000123"] * named]
    assert load_checkpoint(earlier).trainer.step == 100
    newest, skipped = newest_checkpoint(tmp_path)
    assert (newest.trainer.step, skipped) == (123 if named else 100, [])


@pytest.mark.parametrize("at", range(1, REPLACING_SAVE + 1))
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, no_space])
def test_a_replacement_cut_off_at_any_moment_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, error, at
):
    old, new = state(seed=1), state(seed=2)
    path = save(tmp_path, state=old)
    with monkeypatch.context() as patch:
        CutOff(patch, error(), at)
        with pytest.raises((KeyboardInterrupt, SystemExit, OutputError)):
            save(tmp_path, state=new)
    assert names(tmp_path) == ["step-000123"]
    named = at > REPLACING_SAVE - 2
    same_bits(load_checkpoint(path).state.weights, (new if named else old).weights)


def test_an_interrupt_while_clearing_up_leaves_what_the_next_save_clears(tmp_path, monkeypatch):
    save(tmp_path)

    def interrupt(path, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, state=state(seed=2))
    same_bits(newest_checkpoint(tmp_path)[0].state.weights, state(seed=2).weights)
    save(tmp_path, 124)
    assert names(tmp_path) == ["step-000123", "step-000124"]


def test_a_second_save_of_a_step_replaces_the_first(tmp_path):
    save(tmp_path)
    path = save(tmp_path, trainer=trainer(elapsed_s=99.0))
    assert load_checkpoint(path).trainer.elapsed_s == 99.0
    assert names(tmp_path) == ["step-000123"]


def leave_as_a_crash_would(directory: Path) -> None:
    """The machine stops between the two renames of a replacement, and in another save."""
    os.rename(directory / "step-000123", directory / ".replaced-step-000123")
    (directory / ".saving-step-000123").mkdir()
    (directory / ".saving-step-000123" / "weights.safetensors").write_bytes(b"half")
    shutil.copytree(directory / "step-000100", directory / ".replaced-step-000100")


def test_a_checkpoint_under_replacement_is_still_found_after_a_crash(tmp_path):
    save(tmp_path, 100)
    save(tmp_path)
    leave_as_a_crash_would(tmp_path)
    found, skipped = newest_checkpoint(tmp_path)
    assert (found.trainer.step, skipped) == (123, [])
    assert found.path == tmp_path / ".replaced-step-000123"


def test_the_next_save_clears_what_a_crash_left(tmp_path):
    save(tmp_path, 100)
    save(tmp_path)
    leave_as_a_crash_would(tmp_path)
    save(tmp_path, 200)
    assert names(tmp_path) == ["step-000100", "step-000123", "step-000200"]
    for name in names(tmp_path):
        load_checkpoint(tmp_path / name)


def test_files_are_on_disk_before_the_folder_takes_its_name_and_the_name_after(
    tmp_path, monkeypatch
):
    events = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def watched_rename(source, target):
        events.append(f"{Path(source).name} -> {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    save(tmp_path / "checkpoints")
    assert set(events[:7]) == FILES
    assert events[7:] == [
        ".saving-step-000123", ".saving-step-000123 -> step-000123", "checkpoints",
    ]  # fmt: skip


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        save(tmp_path / "file" / "checkpoints")
    assert str(caught.value) == (
        f"cannot write {tmp_path}/file/checkpoints/step-000123: Not a directory;"
        " choose a writable out"
    )


def test_a_read_only_file_system_is_named(tmp_path, monkeypatch):
    CutOff(monkeypatch, OSError(errno.EROFS, os.strerror(errno.EROFS)), at=1)
    with pytest.raises(OutputError, match=r": Read-only file system; choose a writable out$"):
        save(tmp_path)
    assert names(tmp_path) == []


# ----------------------------------------------------------------------------------------- finding


def damage(path: Path) -> str:
    """Cut the weights short; the reason that must be given."""
    file = path / "weights.safetensors"
    size = file.stat().st_size
    os.truncate(file, 5)
    return f"{file} is damaged: its manifest says {size} bytes, got 5"


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
        f"{directory} holds no checkpoint; the run ended before its first one, so start a new run"
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
@pytest.mark.parametrize("error", [KeyboardInterrupt, lambda: no_space()])
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


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.bin", "model.safetensors"])
def test_a_file_is_refused_unread(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(file, tmp_path)
    assert str(caught.value) == (
        f"{file} is not a nanochat checkpoint folder; name the folder of a run (pickle files are never read)"
    )
    assert names(tmp_path) == [name]


def test_a_pickle_under_a_checkpoints_name_is_refused_unread(tmp_path):
    path = save(tmp_path)
    for name in FILES - {"manifest.json"}:
        (path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_that_still_has_the_former_empty_field_is_read(tmp_path, monkeypatch):
    fields = {**dataclasses.asdict(trainer()), "extra": {}}
    monkeypatch.setattr(module, "asdict", lambda _: fields)
    path = save(tmp_path)
    assert json.loads((path / "trainer.json").read_text()) == {
        **fields,
        "share": {"scale": 1.0, "offset": 0.0},
    }
    assert load_checkpoint(path).trainer == trainer()
