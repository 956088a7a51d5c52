"""The folder of everything that can be made or downloaded again: NCLAB_CACHE.

A cache only saves time. It may be read-only or absent: every use works without it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from nanochat.system.plain_files import open_plain, read_plain

__all__ = ["CACHE_VARIABLE", "cache_folder", "user_key", "writable_cache"]

_KEY, _KEY_BYTES = "key", 32

CACHE_VARIABLE = "NCLAB_CACHE"


def cache_folder() -> Path | None:
    """Return NCLAB_CACHE, or the platform's cache folder for this program.

    The folder may not exist. None if NCLAB_CACHE is not set and the user has no home folder.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    if sys.platform == "linux" and "ANDROID_DATA" not in os.environ:
        # As platformdirs does, which takes longer to import than a small run to train.
        base = os.environ.get("XDG_CACHE_HOME", "").strip() or os.path.expanduser("~/.cache")
        return Path(base, "nanochat") if os.path.isabs(base) else None
    import platformdirs

    try:
        folder = Path(platformdirs.user_cache_dir("nanochat", appauthor=False))
    except RuntimeError:  # there is no home folder
        return None
    return folder if folder.is_absolute() else None  # a version may leave ~ in the path


def writable_cache(part: str = "") -> Path | None:
    """Return the cache folder for one kind of file, created; None if it cannot be written."""
    import tempfile

    folder = cache_folder()
    if folder is None:
        return None
    try:
        (folder / part).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / part):  # permissions do not tell all
            return folder / part
    except OSError:
        return None


def user_key() -> bytes | None:
    """Return a secret of this user, made when it is first asked for; None without a cache."""
    folder = cache_folder()
    return None if folder is None else _key_in(folder)


@cache
def _key_in(folder: Path) -> bytes | None:
    path = folder / _KEY
    with suppress(OSError):  # the cache cannot be written
        folder.mkdir(parents=True, exist_ok=True)
        _make_key(path)
    try:
        key = read_plain(path, _KEY_BYTES)
    except OSError:
        return None
    return key if len(key) == _KEY_BYTES else None


def _make_key(path: Path) -> None:
    """Write the key unless the file has a whole one. A full disk may have left a part of it."""
    descriptor = open_plain(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        import fcntl  # POSIX only

        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the first process makes the key of all
        if os.fstat(descriptor).st_size != _KEY_BYTES:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, os.urandom(_KEY_BYTES), 0)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
