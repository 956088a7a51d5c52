"""The files of a folder, and the count of everything in it that is not read.

Owns which files are looked at: hidden files, run folders of this program and further links to the
same file are not. Leaves out whether a file can be read (reading.py).
"""

from __future__ import annotations

import os
import stat
from collections import Counter

from nanochat.config.options import CHECKPOINTS_DIR
from nanochat.data.sources.opening import reason
from nanochat.data.sources.progress import Progress, reading
from nanochat.errors import CorpusError
from nanochat.system.wording import counted

__all__ = ["Skipped", "files_below", "printable"]

# What a run folder of this program always holds. The names are those of runs/folder.py.
_RUN_MARKS = ("config.toml", CHECKPOINTS_DIR)
# What an ablation writes next to the folders of its runs.
_ABLATION_MARKS = ("results.csv", "table.md")


def printable(path: str) -> str:
    """Return a path for a message of one line: line breaks and bytes outside UTF-8 are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


class Skipped:
    """Counts of files and folders that were not read, by kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._ways_out: dict[str, str] = {}

    def add(self, kind: str, way_out: str = "") -> None:
        self._counts[kind] += 1
        if way_out:
            self._ways_out[kind] = way_out

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        return ", ".join(
            f"{count:,} {kind if count == 1 else _plural(kind)}"
            + (f" ({self._ways_out[kind]})" if kind in self._ways_out else "")
            for kind, count in sorted(self._counts.items())
        )


def _plural(kind: str) -> str:
    """Return the plural of a kind: of its noun, which precedes any clause."""
    cuts = (kind.partition(word) for word in (" that ", " of ", " without ", " to "))
    noun, clause, rest = min(cuts, key=lambda cut: len(cut[0]))
    if noun.endswith("y"):
        noun = noun[:-1] + "ies"
    elif not noun.endswith(("s", ")")):
        noun += "s"
    return noun + clause + rest.replace("is not", "are not").replace("expands", "expand")


def files_below(
    folder: str,
    skipped: Skipped,
    progress: Progress | None = None,  # of the whole text; None: of this folder
) -> list[str]:
    """Return the regular files, sorted by their path below the folder.

    A file with several links is listed once, under its first path: the split would put one link
    into training and another one into validation. Linked folders are not entered.
    """
    progress = progress or reading()
    found: list[tuple[bytes, str]] = []
    _collect(folder, b"", found, skipped, progress)
    found.sort()
    by_identity: dict[tuple[int, int], str] = {}
    for count, (_, path) in enumerate(found):
        if progress.is_due():
            progress.tell(f"{printable(folder)}: looked at {count:,} of {_files(found)} so far")
        status = _status(path, skipped)
        if status is None:
            continue
        if not stat.S_ISREG(status.st_mode):
            if not stat.S_ISDIR(status.st_mode):
                skipped.add("pipe, socket or device file")
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in by_identity:
            skipped.add("link to a file that is read already")
        by_identity.setdefault(identity, path)
    return list(by_identity.values())


def _collect(
    folder: str,
    below: bytes,
    found: list[tuple[bytes, str]],
    skipped: Skipped,
    progress: Progress,
) -> None:
    """Append (path below the top folder, path) of every file that is not hidden."""
    top, waiting = folder, [(folder, below)]
    while waiting:
        if progress.is_due():
            progress.tell(f"{printable(top)}: found {_files(found)} so far")
        folder, below = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if not below:
                raise CorpusError(
                    f"cannot read folder {printable(folder)}: {reason(error)}"
                ) from error
            skipped.add("folder that cannot be read")
            continue
        names = {entry.name for entry in entries}
        if below and (names.issuperset(_RUN_MARKS) or names.issuperset(_ABLATION_MARKS)):
            skipped.add("run folder of this program")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                skipped.add("hidden file" if not _is_folder(entry) else "hidden folder")
            elif _is_folder(entry):
                waiting.append((entry.path, below + os.fsencode(entry.name) + b"/"))
            else:
                found.append((below + os.fsencode(entry.name), entry.path))


def _files(found: list[tuple[bytes, str]]) -> str:
    return counted(len(found), "file")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _status(path: str, skipped: Skipped) -> os.stat_result | None:
    """Return the status of the file that a path leads to; count a path that leads nowhere."""
    try:
        return os.stat(path)
    except PermissionError:
        skipped.add("file that cannot be read")
    except OSError:  # nothing there, or a loop of links
        skipped.add("broken link" if os.path.islink(path) else "file that was removed meanwhile")
    return None


def is_run_folder(folder: str) -> bool:
    """Return whether a folder is that of a run of this program."""
    return all(os.path.exists(os.path.join(folder, name)) for name in _RUN_MARKS)
