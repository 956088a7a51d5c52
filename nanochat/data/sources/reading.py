"""One source as texts: its format is recognized, and the reader of that format runs over it.

Owns the order compression → format → reader. A reader yields pieces; one text may have many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from nanochat.data.sources.decoding import utf8
from nanochat.data.sources.formats import HEAD, RECORDS, a_, format_of, way_out
from nanochat.data.sources.opening import SourceFile, Unreadable, compression_of, expanded

if TYPE_CHECKING:
    from nanochat.data.sources.records import Wanted

__all__ = ["Sink", "read_source"]

_SEEKING = ("Parquet", "PDF", "Word", "EPUB")  # readers that need a seekable file


# Takes (piece of UTF-8, whether it ends a text).
Sink = Callable[[bytes, bool], None]


def read_source(
    source: SourceFile,
    column: str | None,
    sink: Sink,
    conversations: bool | None = False,  # as in records.Wanted
) -> str:
    """Read a source into the sink and return what its texts are: text, records or conversations.

    Raises CorpusError, which names the source, and MissingDependency.
    """
    with source.open() as file:
        compression = compression_of(file.read(8))
        head = _head(file, source.name, compression)
        with _seekable(file, source.name, compression, head) as plain:
            kind = format_of(head, source.name, plain)
            if kind in RECORDS:
                from nanochat.data.sources.records import Wanted

                wanted = Wanted(column, conversations)
                for text in _records(file, plain, source.name, compression, kind, wanted):
                    sink(text, True)
                return "conversations" if wanted.conversations else "records"
            for piece in _pieces(file, plain, source.name, compression, kind):
                sink(piece, False)
            sink(b"", True)
            return "text"


def _head(file: BinaryIO, name: str, compression: str | None) -> bytes:
    head = b""
    for chunk in expanded(file, name, compression):
        head += chunk
        if len(head) >= HEAD:
            break
    return head[:HEAD]


@contextmanager
def _seekable(
    file: BinaryIO, name: str, compression: str | None, head: bytes
) -> Iterator[BinaryIO | None]:
    """Give the file, or a decompressed copy where a reader has to seek in it."""
    if compression is None:
        yield file
    elif head.startswith((b"PAR1", b"%PDF-", b"PK\x03\x04")):
        import tempfile

        with tempfile.TemporaryFile() as copy:
            for chunk in expanded(file, name, compression):
                copy.write(chunk)
            copy.seek(0)
            yield copy
    else:
        yield None


def _records(
    file: BinaryIO, plain: BinaryIO | None, name: str, compression: str | None, kind: str,
    wanted: Wanted,
) -> Iterator[bytes]:  # fmt: skip
    from nanochat.data.sources import records

    if kind == "Parquet":
        assert plain is not None
        return records.read_parquet(plain, name, wanted)

    def open_chunks() -> Iterator[bytes]:
        return utf8(expanded(file, name, compression), name)

    if kind == "JSON":
        return records.read_json(open_chunks, name, wanted)
    chunks = open_chunks()
    if kind == "JSONL":
        return records.read_jsonl(chunks, name, wanted)
    return records.read_table(chunks, name, wanted, "\t" if kind == "TSV" else ",")


def _pieces(
    file: BinaryIO, plain: BinaryIO | None, name: str, compression: str | None, kind: str
) -> Iterator[bytes]:
    if kind in ("text", "HTML"):
        chunks = utf8(expanded(file, name, compression), name)
        if kind == "text":
            return chunks
        from nanochat.data.sources.markup import html_text

        return html_text(chunks, name)
    if kind in _SEEKING:
        from nanochat.data.sources.office import office_text

        assert plain is not None
        return office_text(plain, name, kind)
    holds = "is" if compression is None else f"is {a_(compression + ' file')} that holds"
    raise Unreadable(f"{name} {holds} {a_(kind)}; {way_out(kind)}", kind)
