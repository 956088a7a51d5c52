"""The text of PDF files, Word documents and e-books, through the extra `documents`.

Owns which parts of a document are its text. EPUB needs only the standard library. All of them are
read from a seekable file; a zip that expands too far is refused before it is read.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import unquote

from nanochat.data.sources.formats import a_
from nanochat.data.sources.markup import html_text
from nanochat.data.sources.opening import MissingReader, Unreadable, check_ratio, reason
from nanochat.errors import CorpusError, MissingDependency

__all__ = ["OFFICE", "office_text"]

_EXTRA = "pip install 'nanochat-lab[documents]'"


def office_text(file: BinaryIO, name: str, kind: str) -> Iterator[bytes]:
    """Yield the text of a document as UTF-8. Raises CorpusError, and MissingDependency."""
    found, size, written = False, file.seek(0, 2), 0
    file.seek(0)
    for text in OFFICE[kind](file, name):
        clean = text.replace("\0", "")
        found = found or bool(clean.strip())
        content = clean.encode("utf-8", "replace")
        written += len(content)
        check_ratio(name, written, size)  # a document may name one page many times
        yield content
    if not found:
        hint = "; its pages may be pictures" if kind == "PDF" else ""
        raise Unreadable(
            f"{name} must contain text, got {a_(kind)} without any{hint}", f"{kind} without text"
        )


@contextmanager
def _reading(name: str, kind: str) -> Iterator[None]:
    """Turn every exception of a document library into one line. Damaged files raise many types."""
    try:
        yield
    except (CorpusError, MissingDependency, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(
            f"cannot read {name} as {kind}: {reason(error)}; save it again, or convert it to text",
            f"damaged {kind} file",
        ) from error


def _missing(name: str, kind: str) -> MissingReader:
    return MissingReader(f"{name} is {a_(kind)}", kind, _EXTRA)


def _pdf(file: BinaryIO, name: str) -> Iterator[str]:
    try:
        import pypdf
    except ImportError as error:
        raise _missing(name, "PDF") from error
    import logging

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns about each odd object
    with _reading(name, "PDF"):
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(
                f"{name} is protected by a password; save it without one", "PDF with a password"
            )
        for number, page in enumerate(reader.pages):
            yield ("\n\n" if number else "") + page.extract_text().strip()


def _word(file: BinaryIO, name: str) -> Iterator[str]:
    try:
        import docx
    except ImportError as error:
        raise _missing(name, "Word document") from error
    with _reading(name, "Word"):
        _bounded_zip(file, name)
        for block in docx.Document(file).iter_inner_content():
            yield f"{_block_text(block)}\n"


def _block_text(block: Any) -> str:
    """Return the text of a paragraph, or of a table with one line per row."""
    if hasattr(block, "rows"):
        return "\n".join("\t".join(cell.text for cell in row.cells) for row in block.rows)
    return str(block.text)


def _epub(file: BinaryIO, name: str) -> Iterator[str]:
    from xml.etree import ElementTree

    with _reading(name, "EPUB"):
        archive = _bounded_zip(file, name)
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        root = next(e.get("full-path") for e in container.iter() if e.tag.endswith("rootfile"))
        package = ElementTree.fromstring(archive.read(str(root)))
        items = {e.get("id"): e.get("href", "") for e in package.iter() if e.tag.endswith("}item")}
        spine = [e.get("idref") for e in package.iter() if e.tag.endswith("itemref")]
        folder, known = posixpath.dirname(str(root)), set(archive.namelist())
        for number, idref in enumerate(spine):
            path = posixpath.normpath(posixpath.join(folder, unquote(items.get(idref, ""))))
            if path not in known:
                continue
            try:
                page = b"".join(html_text([archive.read(path)], name))
            except CorpusError:  # a cover without text
                continue
            yield ("\n\n" if number else "") + str(page, "utf-8")


def _bounded_zip(file: BinaryIO, name: str) -> Any:
    """Return the zip archive. Raises CorpusError if its files are far larger than it is."""
    import zipfile

    size = file.seek(0, 2)
    file.seek(0)
    archive = zipfile.ZipFile(file)  # reading more than the promised size raises BadZipFile
    check_ratio(name, sum(entry.file_size for entry in archive.infolist()), size)
    file.seek(0)
    return archive


OFFICE: dict[str, Callable[[BinaryIO, str], Iterator[str]]] = {
    "PDF": _pdf,
    "Word": _word,
    "EPUB": _epub,
}
