"""Names and contents that are forced to disk, in order, also where folders cannot be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nanochat.errors import OutputError
from nanochat.system import durable
from nanochat.system.durable import ensure_folder, make_folder, replace_durably


def refuse_folders(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)


def test_a_file_system_that_cannot_sync_folders_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_folders(monkeypatch, errno.EINVAL)
    replace_durably(tmp_path / "x", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"new")]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_could_not_be_synced_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    refuse_folders(monkeypatch, error)
    with pytest.raises(OutputError) as caught:
        replace_durably(tmp_path / "x", b"new")
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'x'}: {os.strerror(error)}; ")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths that were forced to disk, in order."""
    found: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(durable.os, "fsync", noted)
    return found


def test_a_new_folder_gets_a_durable_name_once(tmp_path: Path, synced: list[Path]) -> None:
    ensure_folder(tmp_path / "counts")
    assert synced == [tmp_path]
    ensure_folder(tmp_path / "counts")
    assert synced == [tmp_path]


def test_a_folder_is_not_made_in_a_missing_one_or_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, number in (
        (tmp_path / "gone/counts", errno.ENOENT),
        (tmp_path / "file", errno.EEXIST),
    ):
        with pytest.raises(OSError) as caught:
            ensure_folder(path)
        assert caught.value.errno == number


def test_each_new_parent_gets_a_durable_name(tmp_path: Path, synced: list[Path]) -> None:
    make_folder(tmp_path / "a/b")
    assert synced == [tmp_path, tmp_path / "a"]


def test_a_file_is_on_disk_before_its_name_is(tmp_path: Path, synced: list[Path]) -> None:
    replace_durably(tmp_path / "best", b"x")
    assert synced == [tmp_path / ".best.tmp", tmp_path]
    assert (tmp_path / "best").read_bytes() == b"x"
