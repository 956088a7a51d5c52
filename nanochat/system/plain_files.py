"""Files in folders that another person may have made: regular, of a bounded size, never a link.

Opening a FIFO waits for its other end, a device may never end, and a link leads out of the folder.
Every OSError of this file has a `strerror` that completes "cannot read PATH: ".
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "MOST_RECORD",
    "is_folder",
    "open_plain",
    "plain_file",
    "plain_lines",
    "plain_log",
    "read_plain",
    "remove_entry",
]

MOST_RECORD = 1 << 20  # bytes of a file that holds one record, such as a config or a result
_MOST_LINE = 1 << 16  # bytes; no record of a log has a longer line
_CHUNK = 1 << 20
_NO_LINKS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = (
    (stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    """Return the descriptor of a regular file. Raises OSError for anything else, and at once."""
    try:
        descriptor = os.open(path, flags | _NO_LINKS, mode)
    except ValueError as error:  # a NUL or a lone surrogate, which no name of a file has
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
    except OSError as error:
        if kind := _kind(os.lstat(path).st_mode if os.path.lexists(path) else 0):
            raise _refusal(kind) from error
        raise
    if kind := _kind(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refusal(kind)
    return descriptor


def plain_file(path: str | os.PathLike[str], most: int | None = None) -> BinaryIO:
    """Open a regular file of at most `most` bytes for reading. Raises OSError."""
    file = open(open_plain(path), "rb")  # noqa: SIM115  # the caller closes it
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        file.close()
        raise OSError(errno.EFBIG, f"it must have at most {most:,} bytes, got {size:,}")
    return file


def read_plain(path: str | os.PathLike[str], most: int = MOST_RECORD) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises OSError."""
    with plain_file(path, most) as file:
        return file.read(most)


def plain_log(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a log for reading, of any size: a day of short steps writes hundreds of gigabytes.

    Raises OSError, also for one with holes: a small file with holes may claim any size, and no log
    has any.
    """
    file = plain_file(path)
    try:
        if _has_holes(file.fileno()):
            raise OSError(errno.EINVAL, "it must not have holes")
    except BaseException:
        file.close()
        raise
    return file


def _has_holes(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    if not size or not hasattr(os, "SEEK_HOLE"):
        return False
    hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return hole < size


def plain_lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the lines of a log without their ends, apart from those that are too long for a record.

    Raises OSError.
    """
    with plain_log(path) as file:
        rest, is_cut = b"", False  # the beginning of a line; whether the one before it was dropped
        while chunk := file.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if len(line) <= _MOST_LINE and not is_cut:
                    yield line
                is_cut = False
            if len(rest) > _MOST_LINE:
                rest, is_cut = b"", True
        if rest and not is_cut:
            yield rest


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether the path is a folder and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def remove_entry(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a file, a link or a folder with all that is in it. What a link leads to stays."""
    if is_folder(path):
        import shutil  # few saves have anything to remove

        shutil.rmtree(path, ignore_errors=ignore_errors)
        return
    try:
        path.unlink()
    except OSError:
        if not ignore_errors:
            raise


def _kind(mode: int) -> str:
    """Return what is not a regular file in words, otherwise an empty text."""
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "")


def _refusal(kind: str) -> OSError:
    return OSError(errno.EINVAL, f"it must be a regular file, got {kind}")
