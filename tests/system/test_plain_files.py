"""Opening files that another person may have made: nothing is followed, waited for or read whole."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat.system.plain_files import (
    is_folder,
    open_plain,
    plain_lines,
    plain_log,
    read_plain,
    remove_entry,
)


def made_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


KINDS: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("/dev/zero"),
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": made_socket,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_APPEND])
def test_what_is_no_regular_file_is_named_at_once(folder: Path, kind: str, flags: int) -> None:
    KINDS[kind](Path("x"))
    with pytest.raises(OSError) as caught:
        open_plain("x", flags)
    assert caught.value.strerror == f"it must be a regular file, got {kind}"


def test_devices_are_refused_and_absent_files_are_absent() -> None:
    with pytest.raises(OSError) as caught:
        read_plain("/dev/zero")
    assert caught.value.strerror == "it must be a regular file, got a device"
    with pytest.raises(FileNotFoundError):
        read_plain("/nowhere")


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_absent(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        open_plain(name)


def test_a_file_is_read_up_to_the_bound_and_refused_beyond(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_plain(path, 5) == b"12345"
    with pytest.raises(OSError) as caught:
        read_plain(path, 4)
    assert caught.value.strerror == "it must have at most 4 bytes, got 5"


@pytest.mark.parametrize(("content", "lines"), [
    (b"", []), (b"a", [b"a"]), (b"a\n\nb\n", [b"a", b"", b"b"]),
    (b"x" * 65_536 + b"\na\n", [b"x" * 65_536, b"a"]),
    (b"x" * 65_537 + b"\na\n", [b"a"]), (b"a\n" + b"x" * 3_000_000, [b"a"]),
    (b"x" * 3_000_000 + b"\na", [b"a"]),
])  # fmt: skip
def test_lines_are_those_of_the_file_without_the_too_long_ones(
    tmp_path: Path, content: bytes, lines: list[bytes]
) -> None:
    (tmp_path / "log").write_bytes(content)
    assert list(plain_lines(tmp_path / "log")) == lines


def test_many_lines_over_several_reads_are_those_of_split(tmp_path: Path) -> None:
    content = b"".join(b"%d\n" % pow(7, i, 10**60) for i in range(60_000))
    (tmp_path / "log").write_bytes(content)
    assert list(plain_lines(tmp_path / "log")) == content.split(b"\n")[:-1]


def test_a_log_with_holes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\n")
    os.truncate(path, 1 << 30)
    with pytest.raises(OSError) as caught:
        plain_log(path)
    assert caught.value.strerror == "it must not have holes"


def test_a_log_may_have_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\n")
    size, found = 1 << 45, os.fstat

    def large(descriptor: int) -> os.stat_result:
        return os.stat_result([size if i == 6 else x for i, x in enumerate(found(descriptor))])

    monkeypatch.setattr(os, "fstat", large)
    monkeypatch.setattr(os, "lseek", lambda descriptor, at, how: size)
    with plain_log(path) as log:
        assert log.read() == b"a\n"


def test_removing_a_link_keeps_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("kept")
    for name in ("folder", "folder/file", "nowhere"):
        (tmp_path / "link").symlink_to(tmp_path / name)
        assert not is_folder(tmp_path / "link")
        remove_entry(tmp_path / "link")
        assert not os.path.lexists(tmp_path / "link")
    assert (tmp_path / "folder" / "file").read_text() == "kept"
    remove_entry(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    remove_entry(tmp_path / "folder", ignore_errors=True)
    with pytest.raises(FileNotFoundError):
        remove_entry(tmp_path / "folder")
