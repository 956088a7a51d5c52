"""The folder of everything that can be made or downloaded again: NCLAB_CACHE.

A cache only saves time. It may be read-only or absent: every use works without it.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from nanochat.system.plain_files import read_plain

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, os.urandom(_KEY_BYTES))
        finally:
            os.close(descriptor)
    except OSError:  # it exists, or the cache cannot be written
        pass
    try:
        key = read_plain(path, _KEY_BYTES)
    except OSError:
        return None
    return key if len(key) == _KEY_BYTES else None
