"""Standard input and URLs: their bytes, fetched once per process, and their copies in run folders.

Owns the download, its errors, and `sources/` in a run folder: one file per source, named by the
SHA-256 of its bytes, and an index of the names. A resumed run and an evaluation read that copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from nanochat.data.sources.formats import suffix_of
from nanochat.data.sources.opening import CHUNK, open_file, reason
from nanochat.data.sources.progress import reading
from nanochat.errors import CorpusError
from nanochat.system import processes
from nanochat.system.durable import ensure_folder, output_error, replace_durably
from nanochat.system.plain_files import read_plain
from nanochat.system.wording import amount, printable

__all__ = ["SOURCES_DIR", "STDIN", "Fetched", "fetched", "is_url", "keep_sources", "kept_copy"]

STDIN = "-"
SOURCES_DIR = "sources"
_INDEX = "index.json"
_TIMEOUT_S = 15
_IN_MEMORY = 1 << 26  # bytes; larger sources wait in a temporary file


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes of a source that cannot be read again: a spooled file, or the copy in a run."""

    origin: str  # `-` or a URL
    sha256: str
    spool: IO[bytes] | None = None
    kept: Path | None = None

    @property
    def name(self) -> str:
        return "standard input" if self.origin == STDIN else printable(self.origin)

    @property
    def identity(self) -> tuple[str]:
        return (self.origin,)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        if self.spool is not None:
            self.spool.seek(0)
            yield self.spool  # type: ignore[misc]  # a spooled file has all that is needed
        else:
            with open_file(str(self.kept), f"{self.name} in {self.kept}", follow=False) as file:
                yield file


# Standard input can be read only once, and both readings of a URL must give the same text.
_fetched: dict[str, Fetched] = {}


def is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def fetched(
    origin: str,
    folder: Path | None,  # of the run that may hold a copy
) -> Fetched:
    """Return the source: the copy in the run folder if there is one, otherwise read now."""
    copy = kept_copy(folder, origin) if folder is not None else None
    if copy is not None:
        return copy
    if origin not in _fetched:
        _fetched[origin] = _spooled(origin, _stdin() if origin == STDIN else _download(origin))
    return _fetched[origin]


def forget() -> None:
    """Drop all sources that were fetched in this process."""
    for source in _fetched.values():
        if source.spool is not None:
            source.spool.close()
    _fetched.clear()


def _spooled(origin: str, chunks: Iterator[bytes]) -> Fetched:
    import atexit
    import tempfile

    atexit.unregister(forget)  # an open spooled file complains while the interpreter shuts down
    atexit.register(forget)
    digest, size, progress = hashlib.sha256(), 0, reading()
    name = "standard input" if origin == STDIN else printable(origin)
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # outlives this call
    try:
        for chunk in chunks:
            digest.update(chunk)
            spool.write(chunk)
            size += len(chunk)
            if progress.is_due():
                progress.tell(f"{name}: received {amount(size)} so far")
    except BaseException:
        spool.close()
        raise
    return Fetched(origin, digest.hexdigest(), spool=spool)


def _stdin() -> Iterator[bytes]:
    if processes.world() > 1:
        raise CorpusError(
            f"data - (standard input) needs a single process, got {processes.world()}; save the"
            " text to a file"
        )
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed:
        raise CorpusError("standard input is closed; pipe a text into the command")
    if stream.isatty():
        raise CorpusError(
            "data - reads standard input, which is a terminal; pipe a text into the command,"
            " as in `cat my.txt | nanochat train -`"
        )
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read standard input: {reason(error)}") from error


def _download(url: str) -> Iterator[bytes]:
    import http.client
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(url, headers={"User-Agent": "nanochat"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            expected = response.headers.get("Content-Length")
            received = 0
            while chunk := response.read(CHUNK):
                received += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        answer = f"{error.code} {' '.join(str(error.reason).split())}"
        if "infinite loop" in error.reason:  # urllib's text has several lines
            answer = f"{error.code}, a redirect that leads back to itself"
        raise CorpusError(
            f"cannot download {printable(url)}: the server answered {answer}; check the address"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        inner = getattr(error, "reason", error)
        cause = reason(inner) if isinstance(inner, Exception) else str(inner)
        raise CorpusError(
            f"cannot download {printable(url)}: {cause}; check the address and the network, or give"
            " a file"
        ) from error
    promised = int(expected) if expected and expected.isascii() and expected.isdigit() else 0
    if received < promised:
        raise CorpusError(
            f"cannot download {printable(url)}: it ended after {received:,} of {promised:,} bytes;"
            " try again"
        )


# ---------------------------------------------------------------------------------- kept copies


def keep_sources(sources: tuple[Fetched, ...], folder: Path) -> None:
    """Write a copy of each source into the run folder, durably: a resume needs it. Raises
    OutputError."""
    if not sources:
        return
    target = folder / SOURCES_DIR
    index: dict[str, dict[str, str]] = {}
    try:
        ensure_folder(target)
        for source in sources:
            name = source.sha256 + _suffix(source.origin)
            if source.kept is None or source.kept.parent != target:
                _copy(source, target / name)
            index[source.origin] = {"sha256": source.sha256, "file": name}
    except OSError as error:
        raise output_error(target, error) from error
    # Last: it makes the names of the copies durable too.
    replace_durably(target / _INDEX, (json.dumps(index, indent=2) + "\n").encode())


def _copy(source: Fetched, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with source.open() as file, open(temporary, "wb") as copy:
        while chunk := file.read(CHUNK):
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    os.replace(temporary, path)


def _suffix(origin: str) -> str:
    """Return the suffixes of a URL's file, which help to recognize its format."""
    suffix = suffix_of(origin) if is_url(origin) else ""
    return suffix if suffix.isascii() and suffix[1:].isalnum() and len(suffix) < 10 else ".txt"


def kept_copy(folder: Path, origin: str) -> Fetched | None:
    """Return the run folder's copy of a source. Raises CorpusError if it is damaged."""
    index = folder / SOURCES_DIR / _INDEX
    if index.parent.is_symlink():
        raise CorpusError(f"{index.parent} is a link, which no run folder holds; restore it")
    try:
        known: Any = json.loads(read_plain(index))
        entry = known.get(origin)
        if entry is None:
            return None
        sha256, path = str(entry["sha256"]), index.parent / Path(str(entry["file"])).name
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CorpusError(f"cannot read {index}: {reason(error)}; restore it") from error
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise CorpusError(
            f"{index} must be a JSON object with sha256 and file of each source, got another"
            " content; restore it"
        ) from error
    copy = Fetched(origin, sha256, kept=path)
    digest = hashlib.sha256()
    with copy.open() as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise CorpusError(
            f"{path} must have the SHA-256 {sha256[:12]}…; it was changed, restore it"
        )
    return copy
