"""The format of a file, by its content first and its name second.

Owns the table of formats, readable and unreadable, and the way out for each unreadable one. A
format is a short name; READABLE ones have a reader in reading.py.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import BinaryIO

from nanochat.data.sources.opening import SUFFIXES

__all__ = ["HEAD", "RECORDS", "a_", "format_of", "way_out"]

HEAD = 1 << 16  # bytes that decide the format

RECORDS = frozenset({"JSONL", "JSON", "CSV", "TSV", "Parquet"})

_BY_SUFFIX = {
    ".jsonl": "JSONL", ".ndjson": "JSONL", ".json": "JSON", ".csv": "CSV", ".tsv": "TSV",
    ".tab": "TSV", ".html": "HTML", ".htm": "HTML", ".xhtml": "HTML",
}  # fmt: skip
# Formats that no text can be mistaken for: their names alone promise them.
_BINARY_SUFFIX = {".parquet": "Parquet", ".pdf": "PDF", ".docx": "Word", ".epub": "EPUB"}
_UNMARKED = ("", ".txt", ".text")  # names that promise nothing: content decides

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PAR1", "Parquet"),
    (0, b"%PDF-", "PDF"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG image"),
    (0, b"\xff\xd8\xff", "JPEG image"),
    (0, b"GIF87a", "GIF image"),
    (0, b"GIF89a", "GIF image"),
    (0, b"II*\0", "TIFF image"),
    (0, b"MM\0*", "TIFF image"),
    (8, b"WEBP", "WebP image"),
    (8, b"WAVE", "WAVE audio file"),
    (8, b"AVI ", "AVI video"),
    (4, b"ftyp", "MP4 video"),
    (0, b"OggS", "Ogg audio file"),
    (0, b"fLaC", "FLAC audio file"),
    (0, b"ID3", "MP3 audio file"),
    (0, b"\x1aE\xdf\xa3", "Matroska video"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip archive"),
    (0, b"Rar!\x1a\x07", "RAR archive"),
    (257, b"ustar", "tar archive"),
    (0, b"\x7fELF", "compiled program"),
    (0, b"MZ", "Windows program"),
    (0, b"\xcf\xfa\xed\xfe", "compiled program"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office document (.doc, .xls)"),
    (0, b"{\\rtf", "RTF document"),
    (0, b"SQLite format 3\0", "SQLite database"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"\x80\x04\x95", "pickle"),
    (0, b"wOFF", "font"),
    (0, b"\0\x01\0\0", "font"),
    (0, b"\x04\x22\x4d\x18", "lz4 file"),
    (0, b"\x1f\x8b", "gzip file"),
    (0, b"BZh91AY&SY", "bzip2 file"),
    (0, b"\xfd7zXZ\0", "xz file"),
    (0, b"\x28\xb5\x2f\xfd", "zstd file"),
)
_TEXT_MAGIC = {b"MZ", b"ID3", b"wOFF", b"WEBP", b"WAVE", b"AVI ", b"ftyp", b"OggS", b"fLaC"}

_NO_WAY_OUT = "give a text file"
_RENAME = "give it the name of a text file"
_WAYS_OUT = {
    "gzip file": "decompress it first",
    "xz file": "decompress it first",
    "zstd file": "decompress it first",
    "bzip2 file": "decompress it first",
    "zip archive": "unpack it and give the folder",
    "tar archive": "unpack it and give the folder",
    "7-Zip archive": "unpack it and give the folder",
    "RAR archive": "unpack it and give the folder",
    "lz4 file": "decompress it first",
    "OpenDocument file": "save it as .docx or .txt",
    "PowerPoint presentation": "save it as .pdf or .txt",
    "Excel workbook": "save it as .csv",
    "old Office document (.doc, .xls)": "save it as .docx, .csv or .txt",
    "RTF document": "save it as .docx or .txt",
}


def a_(kind: str) -> str:
    """Return a format's name with its article."""
    vowel = kind[0] in "AEIOaeiou" or kind.startswith(("MP", "RTF", "RAR", "xz", "lz4"))
    return f"{'an' if vowel else 'a'} {kind}"


def way_out(kind: str) -> str:
    """Return what to do with a file of an unreadable format."""
    return _RENAME if kind.startswith("text file") else _WAYS_OUT.get(kind, _NO_WAY_OUT)


def format_of(
    head: bytes,  # the first HEAD bytes, decompressed
    name: str,  # path or URL
    file: BinaryIO | None,  # the file of `head`, if a zip's list of files can be read from it
) -> str:
    """Return the format: `text`, one of RECORDS, HTML, PDF, Word, EPUB, or an unreadable one."""
    suffix = suffix_of(name)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(head, file)
    is_binary = b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff"))
    for offset, magic, kind in _MAGIC:
        if head.startswith(magic, offset) and (is_binary or magic not in _TEXT_MAGIC):
            return kind
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix in _BINARY_SUFFIX:
        return f"text file, not {_BINARY_SUFFIX[suffix]}"
    if suffix in _UNMARKED and not is_binary:
        return _kind_of_text(head)
    return "text"


def suffix_of(name: str) -> str:
    """Return the last suffix in lower case, without that of a compression."""
    path = PurePosixPath(name.partition("?")[0] if "://" in name else name)
    if path.suffix.lower() in SUFFIXES:
        path = path.with_suffix("")
    return path.suffix.lower()


def _kind_of_zip(head: bytes, file: BinaryIO | None) -> str:
    """Tell Office documents and e-books from other zip archives."""
    if head[30:58] == b"mimetypeapplication/epub+zip":
        return "EPUB"
    if head[30:].startswith(b"mimetypeapplication/vnd.oasis.opendocument"):
        return "OpenDocument file"
    import zipfile

    try:
        names = set(zipfile.ZipFile(file).namelist()) if file is not None else set()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = set()
    parts = {"word/document.xml": "Word", "META-INF/container.xml": "EPUB",
             "ppt/presentation.xml": "PowerPoint presentation",
             "xl/workbook.xml": "Excel workbook"}  # fmt: skip
    return next((kind for part, kind in parts.items() if part in names), "zip archive")


def _kind_of_text(head: bytes) -> str:
    """Recognize HTML and records in a file whose name promises nothing."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    start = head.decode(encoding, "ignore").lstrip()
    if start[:15].lower().startswith(("<!doctype html", "<html")):
        return "HTML"
    line = start.partition("\n")[0].strip()
    if line.startswith("{") and line.endswith("}") and _has_text(_parsed(line)):
        return "JSONL"
    if start.startswith("[") and start[1:].lstrip().startswith("{") and '"' in start[:100]:
        return "JSON"
    for separator, kind in (("\t", "TSV"), (",", "CSV")):
        columns = [column.strip().strip('"') for column in line.split(separator)]
        if len(columns) > 1 and _has_text(dict.fromkeys(columns, "")):
            return kind
    return "text"


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _has_text(record: object) -> bool:
    from nanochat.data.sources.records import TEXT_COLUMNS

    return isinstance(record, dict) and any(column in record for column in TEXT_COLUMNS)
