"""Read `--data` into a list of documents: text files, folders, .jsonl, .parquet, registry names.

Owns reading, decoding and splitting text into documents, and the error message of every failure.
Leaves out where registry data comes from (registry.py), the training split and the tokens.
"""

from __future__ import annotations

import errno
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

__all__ = ["EMPTY_DATASET", "Corpus", "load_corpus"]

EMPTY_DATASET = "dataset must contain at least one token pair"


@dataclass(frozen=True)
class Corpus:
    """The documents of a dataset in reading order. Text is not normalized."""

    name: str  # `--data` as given
    documents: tuple[str, ...] | list[str]
    kind: str  # the unit of one document: file, line, paragraph, or record (.jsonl, .parquet)


def load_corpus(data: str, documents: str = "auto", data_dir: str | None = None) -> Corpus:
    """Read the corpus that `data` names. Registry names take precedence over paths.

    Args:
        data: registry name, or path of a text file, a folder, a .jsonl or a .parquet file.
        documents: auto, file, line or paragraph. auto follows the registry entry; otherwise one
            document is one record (.jsonl, .parquet) or one file (other text).
        data_dir: folder that is searched for registry data before it is downloaded.

    Raises:
        CorpusError: the data cannot be found, read or decoded, or contains no text.
        MissingDependency: a .parquet file is given and pyarrow is not installed.
    """
    if data in registry.REGISTRY:
        contents = [_decode(registry.read_entry(data, data_dir), f"data {data}")]
        kind = registry.REGISTRY[data].documents if documents == "auto" else documents
    else:
        contents, are_records = _read_path(_path_of(data))
        kind = documents
        if documents in ("auto", "file"):  # a .jsonl holds records as a folder holds files
            kind = "record" if are_records else "file"
    split = _SPLITTERS[kind]
    found = [document for content in contents for document in split(content)]
    if not any(found):
        raise CorpusError(EMPTY_DATASET)
    return Corpus(name=data, documents=found, kind=kind)


# ---------------------------------------------------------------------------- text → documents


def _whole(text: str) -> Sequence[str]:
    return (text,)


def _lines(text: str) -> Sequence[str]:
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def _paragraphs(text: str) -> Sequence[str]:
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    groups = groupby(lines, lambda line: not line.strip())
    return ["\n".join(group) for is_blank, group in groups if not is_blank]


_SPLITTERS: dict[str, Callable[[str], Sequence[str]]] = {
    "file": _whole,
    "record": _whole,
    "line": _lines,
    "paragraph": _paragraphs,
}


# ------------------------------------------------------------------------- path → file contents


def _path_of(data: str) -> Path:
    """Return the path that `data` names. Raises CorpusError if it does not exist."""
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
    """Return the text of every record or file, and whether all of them are records."""
    if not path.is_dir():
        return list(_read_file(path)), path.suffix in _RECORD_READERS
    files = _files_below(path)
    if not files:
        raise CorpusError(f"folder {path} contains no text file; hidden files are skipped")
    contents = [content for file in files for content in _read_file(file)]
    return contents, all(file.suffix in _RECORD_READERS for file in files)


def _files_below(folder: Path) -> list[Path]:
    """Return the regular files that are not hidden, sorted by their path below the folder.

    A file with several links is listed once, under its first path. Linked folders are not entered.
    """
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise CorpusError(f"cannot read folder {error.filename}: {error.strerror}") from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    found.sort(key=lambda file: file.relative_to(folder).as_posix())
    # The split would put one link into training and another one into validation.
    by_identity: dict[tuple[int, int], Path] = {}
    for file in found:
        status = _status(file)
        if status is None or not stat.S_ISREG(status.st_mode):
            continue
        if _has_surrogate(str(file)):
            raise CorpusError(f"file name {os.fsencode(file)!r} is not UTF-8; rename the file")
        by_identity.setdefault((status.st_dev, status.st_ino), file)
    return list(by_identity.values())


def _status(file: Path) -> os.stat_result | None:
    """Return the status of the file that a path leads to, or None for a broken link."""
    try:
        return file.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise CorpusError(f"cannot read {file}: {error.strerror}") from error


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
    """Decode UTF-8 and drop a leading byte order mark. Newlines are kept as they are."""
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


# ------------------------------------------------------------------------ records → their texts


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
            raise CorpusError(f'{path} line {number}: "text" contains a lone surrogate; replace it')
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
            raise CorpusError(f"{path} must have a column text, got {', '.join(columns)}")
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
