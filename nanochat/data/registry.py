"""Corpora that have a name: where each comes from and how its bytes are known to be right.

Owns the table of names and the search: the package itself, then `data_dir`, then one download
into the user's cache. Leaves out decoding and cutting into documents (corpus.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.errors import CorpusError

__all__ = ["DATA_DIR_VARIABLE", "REGISTRY", "Entry", "embedded_text", "read_entry"]

DATA_DIR_VARIABLE = "NCLAB_DATA_DIR"
_TIMEOUT_S = 15


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One named corpus; `resource` if the package carries it, else the other four."""

    documents: str  # what `--documents auto` means
    resource: str | None = None
    url: str = ""
    size: int = 0  # bytes
    sha256: str = ""
    local_names: tuple[str, ...] = ()  # what people call the file


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
    """The bytes of a corpus that the package carries."""
    return (Path(__file__).parent / "corpora" / resource).read_bytes()


def read_entry(name: str, data_dir: str | None = None) -> bytes:
    """The bytes of a registry corpus, with the pinned SHA-256. Raises CorpusError if they
    are nowhere: one line with what is missing, where it was looked for and what to do."""
    entry = REGISTRY[name]
    if entry.resource is not None:
        return embedded_text(entry.resource)
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE) or None
    looked = "no data_dir was given"
    if folder is not None:
        raw, looked = _find_local(entry, Path(folder).expanduser())
        if raw is not None:
            return raw
    return _download(name, entry, looked)


def _find_local(entry: Entry, folder: Path) -> tuple[bytes | None, str]:
    """The file in the folder that has the hash, or None and what was seen instead."""
    if not folder.is_dir():
        return None, f"data_dir {folder} is no folder"
    wrong: list[str] = []
    for path in _candidates(entry, folder):
        try:
            raw = path.read_bytes()
        except OSError as error:
            wrong.append(f"{path.name} there cannot be read: {error.strerror}")
            continue
        if hashlib.sha256(raw).hexdigest() == entry.sha256:
            return raw, ""
        if path.name in entry.local_names:
            wrong.append(f"{path.name} there has another SHA-256")
    seen = f" ({', '.join(wrong)})" if wrong else ""
    return None, f"it is not in data_dir {folder}{seen}"


def _candidates(entry: Entry, folder: Path) -> Iterator[Path]:
    named = [folder / name for name in entry.local_names]
    yield from (path for path in named if path.is_file())
    for path in sorted(folder.glob("*.txt")):
        if path not in named and path.is_file() and path.stat().st_size == entry.size:
            yield path


def _download(name: str, entry: Entry, looked: str) -> bytes:
    """The file from the user's cache, fetched once; pooch checks the hash both times."""
    import logging

    import pooch  # 100 ms that only a download costs

    pooch.get_logger().setLevel(logging.ERROR)  # its notes would mix with our progress
    cache = Path(pooch.os_cache("nanochat"))
    try:
        path = pooch.retrieve(
            entry.url,
            known_hash=f"sha256:{entry.sha256}",
            fname=f"{name}.txt",
            path=cache,
            downloader=pooch.HTTPDownloader(timeout=_TIMEOUT_S),
        )
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong hash is not
        reason = type(error).__name__ if isinstance(error, OSError) else "it has another SHA-256"
        raise CorpusError(
            f"data {name} is not on this machine: {looked}, it is not in the cache {cache},"
            f" and its download failed ({reason}); put {entry.url} into a folder and give that"
            f" as --data-dir or {DATA_DIR_VARIABLE}"
        ) from error
