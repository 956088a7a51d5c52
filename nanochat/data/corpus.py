"""From `--data` to a list of documents: text files, folders, .jsonl, .parquet, registry names.

Owns reading, decoding and cutting into documents, and the message of every way that can fail.
Leaves out where registry data comes from (registry.py), the split and the tokens.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from nanochat.config.options import closest
from nanochat.data import registry
from nanochat.errors import CorpusError, MissingDependency

__all__ = ["EMPTY", "Corpus", "load_corpus"]

EMPTY = "dataset must contain at least one token pair"


@dataclass(frozen=True)
class Corpus:
    """Documents in the order they were read. Text is not normalised in any way."""

    name: str  # `--data` as given
    documents: tuple[str, ...] | list[str]
    kind: str  # what one document is: file, line, paragraph, or record (.jsonl, .parquet)


def load_corpus(data: str, documents: str = "auto", data_dir: str | None = None) -> Corpus:
    """Read the corpus that `data` names: a registry name first, else a path.

    `documents` is auto, file, line or paragraph; auto follows the registry entry, and is one
    document a record for .jsonl and .parquet and one a file for other text. `data_dir` is where
    registry data is looked for before it is downloaded. Raises CorpusError for anything that
    cannot be found, read or decoded and for an empty corpus, MissingDependency without pyarrow.
    """
    if data in registry.REGISTRY:
        source = f"data {data}"
        texts = [_decode(registry.read_entry(data, data_dir), source)]
        kind = registry.REGISTRY[data].documents if documents == "auto" else documents
    else:
        path = _path_of(data)
        texts, records = _read_path(path)
        kind = documents
        if documents in ("auto", "file"):  # a record is to a .jsonl what a file is to a folder
            kind = "record" if records else "file"
    cut = _CUTTERS[kind]
    parts = [part for text in texts for part in cut(text)]
    if not any(parts):
        raise CorpusError(EMPTY)
    return Corpus(name=data, documents=parts, kind=kind)


# ---------------------------------------------------------------------------- text → documents


def _whole(text: str) -> Sequence[str]:
    return (text,)


def _lines(text: str) -> Sequence[str]:
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def _paragraphs(text: str) -> Sequence[str]:
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    blocks = groupby(lines, lambda line: not line.strip())
    return ["\n".join(block) for blank, block in blocks if not blank]


_CUTTERS: dict[str, Callable[[str], Sequence[str]]] = {
    "file": _whole,
    "record": _whole,
    "line": _lines,
    "paragraph": _paragraphs,
}


# --------------------------------------------------------------------------------- path → texts


def _path_of(data: str) -> Path:
    """The path that `data` names. Raises CorpusError if nothing is there."""
    path = Path(data).expanduser() if data.startswith("~") else Path(data)
    try:
        mode = os.stat(path).st_mode if data else 0
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        mode = 0
    except OSError as error:
        raise CorpusError(f"cannot read {data}: {error.strerror}") from error
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return path
    if mode:
        raise CorpusError(f"data must be a file or a folder, {data} is neither; copy it to a file")
    looks_like_path = os.sep in data or "/" in data or Path(data).suffix
    if looks_like_path:
        raise CorpusError(f"no such file or folder: {data}")
    raise CorpusError(
        f"data {data!r} is neither a file or folder nor a registry name"
        f"{closest(data, registry.REGISTRY)}; the registry has {', '.join(registry.REGISTRY)}"
    )


def _read_path(path: Path) -> tuple[list[str], bool]:
    """The texts of a file or of every file of a folder, and whether each is a record."""
    if not path.is_dir():
        return list(_read_file(path)), path.suffix in _RECORD_READERS
    files = _files_below(path)
    if not files:
        raise CorpusError(f"folder {path} holds no text file; hidden files do not count")
    texts = [text for file in files for text in _read_file(file)]
    return texts, all(file.suffix in _RECORD_READERS for file in files)


def _files_below(folder: Path) -> list[Path]:
    """Regular files that are not hidden, sorted by their path below the folder."""
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise CorpusError(f"cannot read folder {error.filename}: {error.strerror}") from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    found = [file for file in found if file.is_file()]
    for file in found:
        if _has_surrogate(str(file)):
            raise CorpusError(f"file name {os.fsencode(file)!r} is not UTF-8; rename the file")
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def _read_file(path: Path) -> Iterator[str]:
    reader = _RECORD_READERS.get(path.suffix)
    if reader is not None:
        yield from reader(path)
    else:
        yield _decode(_read_bytes(path), str(path))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error


def _decode(raw: bytes, source: str) -> str:
    """UTF-8 to text, without a leading byte order mark; newlines stay as they are."""
    nul = raw.find(b"\0")
    if nul >= 0:
        raise CorpusError(f"{source} is not text: NUL at byte {nul}; give UTF-8 text")
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{source} is not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start};"
            " convert it, for example with iconv"
        ) from error


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


# ------------------------------------------------------------------------------ records → texts


def _read_jsonl(path: Path) -> Iterator[str]:
    text = _decode(_read_bytes(path), str(path))
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path} line {number} is not JSON: {error}") from error
        value = record.get("text") if isinstance(record, dict) else None
        if not isinstance(value, str):
            raise CorpusError(f'{path} line {number} must be an object with a string "text"')
        if _has_surrogate(value):
            raise CorpusError(f'{path} line {number}: "text" holds a lone surrogate; replace it')
        yield value


def _read_parquet(path: Path) -> Iterator[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency(
            f"{path} needs pyarrow; pip install 'nanochat-lab[parquet]'"
        ) from error
    try:
        columns = parquet.read_schema(path).names
        if "text" not in columns:
            raise CorpusError(f"{path} must have a column text, it has {', '.join(columns)}")
        values = parquet.read_table(path, columns=["text"])["text"].to_pylist()
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise CorpusError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise CorpusError(f"{path} row {row}: text must be a string, got {value!r:.40}")
        yield value


_RECORD_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
