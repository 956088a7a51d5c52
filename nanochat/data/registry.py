"""Corpora that have a name: their sources, and the hashes that their bytes are checked against.

Owns the table of names and the search order: the package itself, then `data_dir`, then one
download into the cache. Leaves out decoding and splitting into documents (corpus.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nanochat.data.sources.opening import reason
from nanochat.errors import CorpusError
from nanochat.system.cache import cache_folder, writable_cache
from nanochat.system.wording import printable

__all__ = ["DATA_DIR_VARIABLE", "REGISTRY", "Entry", "embedded_text", "read_entry"]

DATA_DIR_VARIABLE = "NCLAB_DATA_DIR"
_TIMEOUT_S = 15


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One named corpus: a `resource` of the package, or a download with the other four fields."""

    documents: str  # the meaning of `--documents auto`
    resource: str | None = None
    url: str = ""
    size: int = 0  # bytes
    sha256: str = ""
    local_names: tuple[str, ...] = ()  # usual names of the file in data_dir


REGISTRY: dict[str, Entry] = {
    "names": Entry(documents="line", resource="names.txt"),
    "names-makemore": Entry(
        documents="line",
        url="https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
        size=228145,
        sha256="0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        local_names=("names.txt",),
    ),
    "shakespeare": Entry(
        documents="file",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        size=1115394,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        local_names=("tinyshakespeare.txt", "input.txt"),
    ),
}


def embedded_text(resource: str) -> bytes:
    """Return the bytes of a corpus that is part of the package."""
    return (Path(__file__).parent / "corpora" / resource).read_bytes()


def read_entry(name: str, data_dir: str | None = None) -> bytes:
    """Return the bytes of a registry corpus, checked against its pinned SHA-256.

    Raises CorpusError when the corpus is not found. The message names the corpus, the places that
    were searched and the remedy.
    """
    entry = REGISTRY[name]
    if entry.resource is not None:
        return embedded_text(entry.resource)
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE) or None
    looked = "no data_dir was given"
    if folder is not None:
        raw, looked = _find_local(entry, Path(os.path.expanduser(folder)))
        if raw is not None:
            return raw
    return _download(name, entry, looked)


def _find_local(entry: Entry, folder: Path) -> tuple[bytes | None, str]:
    """Return the file with the right hash, or None and the reason why there is none."""
    try:
        if not folder.is_dir():
            return None, f"data_dir {printable(folder)} is not a folder"
        candidates = list(_candidates(entry, folder))
    except (OSError, ValueError) as error:  # ValueError: NUL, surrogates
        return None, f"data_dir {printable(folder)} cannot be read: {reason(error)}"
    wrong: list[str] = []
    for path in candidates:
        try:
            is_whole = path.stat().st_size == entry.size
            raw = path.read_bytes() if is_whole else b""  # a file of another size may be huge
        except OSError as error:
            wrong.append(f"{path.name} cannot be read: {error.strerror}")
            continue
        if hashlib.sha256(raw).hexdigest() == entry.sha256:
            return raw, ""
        if path.name in entry.local_names:
            wrong.append(f"{path.name} has a different SHA-256")
    seen = f" ({', '.join(wrong)})" if wrong else ""
    return None, f"it is not in data_dir {printable(folder)}{seen}"


def _candidates(entry: Entry, folder: Path) -> Iterator[Path]:
    named = [folder / name for name in entry.local_names]
    yield from (path for path in named if path.is_file())
    for path in sorted(folder.glob("*.txt")):
        if path not in named and path.is_file() and path.stat().st_size == entry.size:
            yield path


def _download(name: str, entry: Entry, looked: str) -> bytes:
    """Return the file from the cache, downloading it once. pooch checks the hash."""
    cache, file = cache_folder(), f"{name}.txt"
    cached = None if cache is None else _cached(cache / file, entry.sha256)
    if cached is not None:
        return cached
    import logging

    import pooch  # takes 100 ms to import

    pooch.get_logger().setLevel(logging.ERROR)  # its messages would mix with the progress line
    try:
        with _download_folder() as folder:
            path = pooch.retrieve(
                entry.url,
                known_hash=f"sha256:{entry.sha256}",
                fname=file,
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=_TIMEOUT_S),
            )
            return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # errors of requests are OSErrors; a wrong hash is not
        is_network = isinstance(error, OSError)
        reason = type(error).__name__ if is_network else "the file has a different SHA-256"
        place = "there is no cache" if cache is None else f"it is not in the cache {cache}"
        raise CorpusError(
            f"data {name} is not on this machine: {looked}, {place},"
            f" and its download failed ({reason}); put {entry.url} into a folder and name the"
            f" folder with --data-dir or {DATA_DIR_VARIABLE}"
        ) from error


def _cached(path: Path, sha256: str) -> bytes | None:
    """Return the bytes of a file with this hash, or None."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    return raw if hashlib.sha256(raw).hexdigest() == sha256 else None


@contextmanager
def _download_folder() -> Iterator[Path]:
    """Yield the cache, or a temporary folder if the cache cannot be written."""
    folder = writable_cache()
    if folder is not None:
        yield folder
        return
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
