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
from nanochat.system.wording import counted, printable

__all__ = ["READ_ALREADY", "Identity", "Skipped", "files_below", "identity_of"]

Identity = tuple[int | str, ...]  # device and inode of a file; the name of another source
READ_ALREADY = "file that was read already"  # under another name of the text

# What a run folder of this program always holds. The names are those of runs/folder.py.
_RUN_MARKS = ("config.toml", CHECKPOINTS_DIR)
# What an ablation writes next to the folders of its runs.
_ABLATION_MARKS = ("results.csv", "table.md")


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
    for singular, plural in (("is not", "are not"), ("expands", "expand"), ("was ", "were ")):
        rest = rest.replace(singular, plural)
    return noun + clause + rest


def files_below(
    folder: str,
    skipped: Skipped,
    progress: Progress | None = None,  # of the whole text; None: of this folder
    seen: set[Identity] | None = None,  # the files of other names, to which these are added
) -> list[str]:
    """Return the regular files, sorted by their path below the folder.

    A file with several links is listed once, under its first path: the split would put one link
    into training and another one into validation. Linked folders are not entered.
    """
    progress, seen = progress or reading(), set() if seen is None else seen
    found: list[tuple[bytes, str]] = []
    _collect(folder, b"", found, skipped, progress)
    found.sort()
    of_other_names, files = frozenset(seen), list[str]()
    for count, (_, path) in enumerate(found):
        if progress.is_due():
            progress.tell(f"{printable(folder)}: looked at {count:,} of {_files(found)} so far")
        status = _status(path, skipped)
        if status is None:
            continue
        if not stat.S_ISREG(status.st_mode):
            is_folder = stat.S_ISDIR(status.st_mode)
            skipped.add("linked folder" if is_folder else "pipe, socket or device file")
            continue
        identity = identity_of(status)
        if identity in of_other_names:
            skipped.add(READ_ALREADY)
        elif identity in seen:
            skipped.add("link to a file that is read already")
        else:
            seen.add(identity)
            files.append(path)
    return files


def identity_of(status: os.stat_result) -> Identity:
    """Return what all paths of one file have in common."""
    return status.st_dev, status.st_ino


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
