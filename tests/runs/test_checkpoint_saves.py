"""Every way in which the save of a checkpoint can be cut off."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from runs.saved_checkpoints import (
    CONFIG,
    DATA,
    FILES,
    TOKENIZER,
    CutOff,
    names,
    no_space,
    same_bits,
    save,
    state,
    trainer,
)  # fmt: skip

from nanochat.errors import OutputError
from nanochat.runs.checkpoint import (
    clear_leftovers,
    load_checkpoint,
    newest_checkpoint,
    remove_checkpoint,
    save_checkpoint,
)

# Seven files and two folders, each a call and an fsync, and a rename or two.
NEW_SAVE, REPLACING_SAVE = 19, 20


@pytest.mark.parametrize(("replacing", "calls"), [(False, NEW_SAVE), (True, REPLACING_SAVE)])
def test_a_save_is_made_of_this_many_calls(tmp_path, monkeypatch, replacing, calls):
    if replacing:
        save(tmp_path)
    counter = CutOff(monkeypatch)
    save(tmp_path)
    assert counter.calls == calls


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


@pytest.fixture
def events(monkeypatch):
    """The names of what is forced to disk and renamed, in order."""
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
    return events


def test_files_are_on_disk_before_the_folder_takes_its_name_and_the_name_after(tmp_path, events):
    save(tmp_path / "checkpoints")
    assert events[0] == tmp_path.name  # in which checkpoints is new
    assert set(events[1:8]) == FILES
    assert events[8:] == [
        ".saving-step-000123", ".saving-step-000123 -> step-000123", "checkpoints",
    ]  # fmt: skip


def test_a_removed_folder_has_lost_its_name_on_disk_before_its_files(tmp_path, events, monkeypatch):
    directory = tmp_path / "checkpoints"
    save(directory)
    events.clear()
    unlink = os.unlink

    def watched_unlink(path, **options):
        events.append("unlink")
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", watched_unlink)
    remove_checkpoint(directory / "step-000123")
    assert events == [
        "step-000123 -> .removed-step-000123", "checkpoints", *["unlink"] * len(FILES)
    ]  # fmt: skip
    assert list(directory.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        save_checkpoint(
            tmp_path / "file" / "checkpoints", config=CONFIG, tokenizer=TOKENIZER, data=DATA,
            trainer=trainer(123), state=state(),
        )  # fmt: skip
    assert str(caught.value) == (
        f"cannot write {tmp_path}/file/checkpoints/step-000123: Not a directory;"
        " choose a writable out"
    )


def test_a_read_only_file_system_is_named(tmp_path, monkeypatch):
    CutOff(monkeypatch, OSError(errno.EROFS, os.strerror(errno.EROFS)), at=1)
    with pytest.raises(OutputError, match=r": Read-only file system; choose a writable out$"):
        save(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", [
    ".saving-step-000001", ".removed-step-000001", ".removed-.replaced-step-000001",
])  # fmt: skip
def test_what_a_cut_off_save_or_removal_has_left_is_removed(tmp_path, name):
    kept = save(tmp_path / "checkpoints", step=2)
    (kept.parent / name).mkdir()
    (kept.parent / name / "weights.safetensors").write_bytes(b"half")
    clear_leftovers(kept.parent)
    assert list(kept.parent.iterdir()) == [kept]
