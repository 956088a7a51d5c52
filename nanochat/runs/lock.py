"""One writer per run folder: a lock file that names its process and outlives no crash.

The file's flock ends with its process, however that ends. The names inside it are for the message,
and for file systems on which flock does not reach other hosts or does not exist.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nanochat.errors import OutputError
from nanochat.system.durable import output_error
from nanochat.system.plain_files import open_plain

__all__ = ["LOCK", "Lock", "locked", "writer"]

LOCK = ".lock"
_NAMES_WITHIN_S = 0.1  # a process writes its names right after it has locked the file


class Lock:
    """The lock that this process holds on a folder."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder = folder
        self._descriptor: int | None = descriptor  # None: released

    def release(self) -> None:
        """Unlock the folder, which anybody may move or replace from now on."""
        descriptor, self._descriptor = self._descriptor, None
        assert descriptor is not None
        with suppress(OSError):
            # The path may lead to the lock of another run by now.
            if _is_named(descriptor, self._folder / LOCK):
                os.unlink(self._folder / LOCK)
        with suppress(OSError):  # an error of the file system; the descriptor is closed anyway
            os.close(descriptor)  # last: nobody can lock the file while its name still exists

    def check(self) -> None:
        """Raise OutputError if the path of the locked folder leads to another one, or to none."""
        if self._descriptor is not None and not _is_named(self._descriptor, self._folder / LOCK):
            raise OutputError(
                f"cannot write {self._folder}: the folder was moved, removed or replaced during the"
                " run; if it was moved, go on with --resume --out and its new path"
            )


@contextmanager
def locked(folder: Path) -> Iterator[Lock]:
    """Keep other processes from writing to the folder while the block runs.

    Raises OutputError that names the process which writes to it. The lock of a process that has
    ended is taken over; whether one on another host has ended cannot be known.
    """
    path = folder / LOCK
    try:
        descriptor = _acquired(path)
    except OSError as error:
        raise output_error(path, error) from error
    lock = Lock(folder, descriptor)
    try:
        yield lock
    finally:
        lock.release()


def writer(folder: Path) -> str | None:
    """Return the process that writes to the folder, or None. Never touches the lock.

    Of a process on another host, only the lock file is known.
    """
    try:
        descriptor = open_plain(folder / LOCK)
    except OSError:
        return None
    try:
        owner = _names(descriptor)
    finally:
        os.close(descriptor)
    return _owner_text(owner) if owner and _may_run(owner) else None


def _acquired(path: Path) -> int:
    """Return the descriptor of the locked file, which holds this process's names."""
    while True:
        descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor, path)
            if not _is_named(descriptor, path):  # removed by its owner in the meantime
                os.close(descriptor)
                continue
            owner = _names(descriptor)
            # This process may have left its own lock where it could not remove the file.
            if owner and owner != _own_names() and _may_run(owner):
                raise _refusal(path, owner)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_own_names()).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _lock(descriptor: int, path: Path) -> None:
    import fcntl  # POSIX only

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        last_try = time.monotonic() + _NAMES_WITHIN_S
        while True:
            owner = _names(descriptor)
            if owner and _may_run(owner):  # not the names of an owner that has ended
                raise _refusal(path, owner) from None
            if time.monotonic() > last_try:
                raise _refusal(path, {}) from None
            time.sleep(0.005)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        # Without flock the names in the file decide.


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one that the path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _own_names() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": os.uname().nodename, "started": _start_time(os.getpid())}


def _names(descriptor: int) -> Mapping[str, Any]:
    """Return what the owner wrote into the file; empty if it wrote nothing that can be read."""
    try:
        names = json.loads(os.pread(descriptor, 4096, 0))
        pid, host, started = int(names["pid"]), str(names["host"]), names["started"]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, OSError):
        return {}
    return {"pid": pid, "host": host, "started": started} if pid > 0 else {}


def _may_run(owner: Mapping[str, Any]) -> bool:
    """Whether the process may still be running. Process numbers are reused: the start time
    tells two processes of one number apart."""
    if owner["host"] != os.uname().nodename:
        return True
    try:
        os.kill(owner["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it runs, as another user
    return owner["started"] is None or _start_time(owner["pid"]) in (None, owner["started"])


def _start_time(pid: int) -> int | None:
    """Return the ticks from the machine's start to the process's, where the system tells them."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses, the second field, may hold spaces and parentheses.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _owner_text(owner: Mapping[str, Any]) -> str:
    return f"process {owner['pid']} on host {owner['host']}"


def _refusal(path: Path, owner: Mapping[str, Any]) -> OutputError:
    if not owner:
        return OutputError(f"another process writes to {path.parent}; choose another out")
    process = _owner_text(owner)
    way_out = "wait for it or choose another out"
    if owner["host"] != os.uname().nodename:
        way_out = f"if it has ended, delete {path}; otherwise choose another out"
    return OutputError(f"{process} writes to {path.parent}; {way_out}")
