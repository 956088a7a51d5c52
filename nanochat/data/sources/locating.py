"""What a name given as `data` means: a file, a folder, standard input, a URL, a registry name.

Owns the order in which the meanings are tried: `-`, URL, `registry:NAME`, path, registry name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from nanochat.config.option import closest
from nanochat.data import registry
from nanochat.data.sources.fetching import STDIN, Fetched, fetched, is_url
from nanochat.data.sources.folder import (
    READ_ALREADY,
    Identity,
    Skipped,
    files_below,
    identity_of,
    is_run_folder,
)
from nanochat.data.sources.opening import SourceFile, open_file, reason
from nanochat.data.sources.progress import Progress
from nanochat.errors import CorpusError
from nanochat.system.wording import printable

__all__ = ["REGISTRY_PREFIX", "Located", "NamedFile", "NotFound", "RegistryFile", "locate"]

REGISTRY_PREFIX = "registry:"
MOST_NEIGHBOURS = 1000  # names of a folder that are compared with a missing one


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file on disk."""

    path: str

    @property
    def name(self) -> str:
        return printable(self.path)

    @property
    def identity(self) -> Identity:
        try:
            return identity_of(os.stat(self.path))
        except OSError:  # it was removed; reading it will raise the error
            return (self.path,)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        with open_file(self.path, self.name) as file:
            yield file


@dataclass(frozen=True, slots=True)
class RegistryFile:
    """A registry corpus, whose bytes are checked against a pinned SHA-256."""

    entry: str
    data_dir: str | None

    @property
    def name(self) -> str:
        return f"data {self.entry}"

    @property
    def identity(self) -> Identity:
        return (self.name,)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        yield BytesIO(registry.read_entry(self.entry, self.data_dir))


@dataclass(slots=True)
class Located:
    """The files that one name means."""

    given: str
    files: list[SourceFile]
    folder: bool = False
    documents: str | None = None  # the unit of a registry corpus
    note: str | None = None
    skipped: Skipped = field(default_factory=Skipped)


def locate(
    given: str,
    data_dir: str | None,
    run_folder: Path | None,
    progress: Progress | None = None,  # of the text that the name is a part of
    seen: set[Identity] | None = None,  # the files of the names before, to which these are added
) -> Located:
    """Return the files of one name that no name before it means. Raises CorpusError if there are
    none."""
    seen = set() if seen is None else seen
    located = _located(given, data_dir, run_folder, progress, seen)
    if not located.folder:  # files_below has looked at those of a folder
        new = [file for file in located.files if file.identity not in seen]
        for _ in range(len(located.files) - len(new)):
            located.skipped.add(READ_ALREADY)
        located.files = new
        seen.update(file.identity for file in new)
    return located


def _located(
    given: str,
    data_dir: str | None,
    run_folder: Path | None,
    progress: Progress | None,
    seen: set[Identity],
) -> Located:
    if given == STDIN or is_url(given):
        source: Fetched = fetched(given, run_folder)
        return Located(given, [source])
    if given.startswith(REGISTRY_PREFIX):
        return _registry(given, given.removeprefix(REGISTRY_PREFIX), data_dir)
    path = _expanded(given)
    mode = _mode(path, given)
    if mode == 0:
        if given in registry.REGISTRY:
            return _registry(given, given, data_dir)
        raise _not_found(given)
    note = None
    if given in registry.REGISTRY:
        note = (
            f"data {given} is the {'folder' if stat.S_ISDIR(mode) else 'file'} ./{given};"
            f" {REGISTRY_PREFIX}{given} is the registry's text"
        )
    if stat.S_ISREG(mode):
        return Located(given, [NamedFile(path)], note=note)
    if not stat.S_ISDIR(mode):
        raise CorpusError(
            f"data must be a file or a folder, {printable(given)} is neither; copy it to a file"
        )
    if is_run_folder(path):
        raise CorpusError(
            f"data {printable(given)} is a run folder of this program, not a text; give the text"
            " itself"
        )
    located = Located(given, [], folder=True, note=note)
    found = files_below(path, located.skipped, progress, seen)
    located.files += [NamedFile(file) for file in found]
    return located


def _registry(given: str, name: str, data_dir: str | None) -> Located:
    if name not in registry.REGISTRY:
        raise CorpusError(
            f"the registry has no {name!r:.60}{closest(name, registry.REGISTRY)}; it has"
            f" {', '.join(registry.REGISTRY)}"
        )
    unit = registry.REGISTRY[name].documents
    return Located(given, [RegistryFile(name, data_dir)], documents=unit)


def _expanded(given: str) -> str:
    """Return the path with the home folder for `~`. Raises CorpusError for an unknown user."""
    if not given.startswith("~"):
        return given
    try:
        return str(Path(given).expanduser())
    except RuntimeError as error:  # no such user, or no home folder
        if os.path.lexists(given):
            return given
        raise NotFound(
            f"no such file or folder: {printable(given)} (its user has no home folder)"
        ) from error


def _mode(path: str, given: str) -> int:
    """Return the file type, or 0 if there is no such path."""
    try:
        return os.stat(path).st_mode if path else 0
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: NUL, surrogates
        return 0
    except OSError as error:
        raise CorpusError(f"cannot read {printable(given)}: {reason(error)}") from error


def _neighbour(given: str) -> str:
    """Return ` (did you mean 'x'?)` for a misspelt name in a folder, or nothing."""
    folder, name = os.path.split(given)
    try:
        with os.scandir(folder or os.curdir) as entries:
            names = [entry.name for entry in islice(entries, MOST_NEIGHBOURS)]
    except (OSError, ValueError):  # ValueError: NUL, surrogates
        return ""
    import difflib  # only a mistake needs it

    # Without their endings, which make all names alike.
    stems = {os.path.splitext(other)[0]: other for other in names}
    near = difflib.get_close_matches(os.path.splitext(name)[0][:100], stems, n=1)
    return f" (did you mean '{printable(stems[near[0]])}'?)" if near else ""


class NotFound(CorpusError):
    """No file or folder has the given path."""


def _not_found(given: str) -> CorpusError:
    if os.sep in given or "/" in given or Path(given).suffix:
        scheme = given.partition("://")[0]
        if scheme != given and scheme.isalpha():
            return CorpusError(f"a URL must start with http:// or https://, got {printable(given)}")
        return NotFound(f"no such file or folder: {printable(given)}{_neighbour(given)}")
    return NotFound(
        f"data {given!r:.60} is neither a file or folder nor a registry name"
        f"{closest(given, registry.REGISTRY)}; the registry has {', '.join(registry.REGISTRY)}"
    )
