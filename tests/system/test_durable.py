"""Writes that survive a crash, on file systems that cannot force everything to disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nanochat.errors import OutputError
from nanochat.system.durable import replace_durably


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
