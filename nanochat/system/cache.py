"""The folder of everything that can be made or downloaded again: NCLAB_CACHE.

A cache only saves time. It may be read-only or absent: every use works without it.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_folder", "writable_cache"]

CACHE_VARIABLE = "NCLAB_CACHE"


def cache_folder() -> Path | None:
    """Return NCLAB_CACHE, or the platform's cache folder for this program.

    The folder may not exist. None if NCLAB_CACHE is not set and the user has no home folder.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
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
