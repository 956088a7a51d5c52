"""Records as texts: JSON, JSON lines, CSV, TSV and Parquet, one document per record.

Owns which column holds the text, and whether records are conversations. Every reader yields UTF-8
and reads no more than a line, a record or a batch of rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from nanochat.data.conversations import is_conversation, marked, turns_of_record
from nanochat.data.sources.json_stream import JsonStream
from nanochat.data.sources.opening import MissingReader, Unreadable, check_ratio, reason
from nanochat.errors import CorpusError
from nanochat.system.wording import printable

__all__ = ["TEXT_COLUMNS", "Wanted", "read_json", "read_jsonl", "read_parquet", "read_table"]

TEXT_COLUMNS = ("text", "content", "messages")  # in this order, when no column is given
_ROWS = 256  # of a Parquet file per batch
_BATCH = 1 << 24  # bytes of repeated strings per batch
_POSITION = 8  # bytes, of the end of a document
_STREAMED: dict[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False}  # not a whole column
_LONGEST_FIELD = 1 << 30  # characters of a CSV field
_ALL_NUMBERS = 1000  # rows; a column that starts with as many numbers holds no text
_SHOWN = 12  # columns that a message lists
_ASCII_SPACE = " \t\n\r\v\f"


@dataclass(slots=True)
class Wanted:
    """What the texts of one file of records are."""

    column: str | None  # that has the text, or the messages; None: by its name
    # Texts are conversations, as `marked` returns them; None: if the first record is one.
    conversations: bool | None = False

    def decide(self, record: Any) -> bool:
        """Return whether the records are conversations; the first record decides."""
        if self.conversations is None:
            self.conversations = is_conversation(record)
        return self.conversations


def _listed(columns: Iterable[str]) -> str:
    known = [printable(str(key)) for key in columns]
    return ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "") or "no columns"


def _no_column(name: str, columns: Iterable[str], column: str | None) -> Unreadable:
    wanted = f"a column {printable(column)}" if column else f"a column {' or '.join(TEXT_COLUMNS)}"
    return Unreadable(
        f"{name} must have {wanted}, got {_listed(columns)}; choose one with --text-column",
        "file of records without a text column",
    )


def _column_of(name: str, columns: Sequence[str], column: str | None) -> str:
    """Return the column that holds the text. Raises Unreadable, which lists the columns."""
    wanted = TEXT_COLUMNS if column is None else (column,)
    found = next((key for key in wanted if key in columns), None)
    if found is None:
        raise _no_column(name, columns, column)
    return found


def _text_of(value: Any, column: str, where: str) -> bytes:
    """Return a record's text as UTF-8. Raises CorpusError for any other value."""
    if isinstance(value, list):
        value = _conversation(value, column, where)
    if not isinstance(value, str):
        raise CorpusError(
            f"{where}: {column} must be a string, got {value!r:.40}; remove the record"
        )
    if "\0" in value:
        raise CorpusError(f"{where}: {column} contains NUL; remove it")
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: {column} contains a lone surrogate; replace it") from error


def _conversation(messages: list[Any], column: str, where: str) -> str:
    """Return chat messages as one text: a paragraph `role: content` for each."""
    turns = []
    for message in messages:
        role, content = (
            (message.get("role", message.get("from")), message.get("content", message.get("value")))
            if isinstance(message, dict)
            else (None, None)
        )
        if not isinstance(role, str) or not isinstance(content, str):
            raise CorpusError(
                f"{where}: {column} must be a string or messages with role and content,"
                f" got {message!r:.40}"
            )
        turns.append(f"{role}: {content}")
    return "\n\n".join(turns)


# -------------------------------------------------------------------------------------- JSON


def read_jsonl(chunks: Iterable[bytes], name: str, wanted: Wanted) -> Iterator[bytes]:
    """Yield the text of each line's record."""
    number = 0
    for line in _lines(chunks):
        number += 1  # noqa: SIM113  # enumerate would keep the line
        if line.strip(_ASCII_SPACE):
            where = f"{name} line {number}"
            record = _parsed(line, where)
            del line  # it may be all of the file
            text = _record_text(record, where, wanted)
            del record
            yield text


def read_json(
    open_chunks: Callable[[], Iterable[bytes]],  # from the beginning at each call
    name: str,
    wanted: Wanted,
) -> Iterator[bytes]:
    """Yield the texts of a JSON file: a list of records or texts, one record, or lines of them.

    An object that holds the list is read twice, because only its end shows which list it is.
    """
    try:
        found = _ListOfRecords.find(open_chunks())
    except (ValueError, RecursionError) as error:
        raise _damaged_json(name, error) from error
    if found is None:
        yield from read_jsonl(open_chunks(), name, wanted)  # JSON lines under the name .json
        return
    number, records = 0, found.records(open_chunks())
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except (ValueError, RecursionError) as error:
            raise _damaged_json(name, error) from error
        number += 1
        where = f"{name} record {number}"
        is_text = isinstance(record, str) and not wanted.decide(record)
        text = (
            _text_of(record, "a record", where) if is_text else _record_text(record, where, wanted)
        )
        del record
        yield text


def _damaged_json(name: str, error: Exception) -> Unreadable:
    return Unreadable(f"{name} is not JSON: {error}", "damaged JSON file")


@dataclass(frozen=True, slots=True)
class _ListOfRecords:
    """Where the records of a JSON file are."""

    is_list: bool  # the file is the list
    member: int | None  # of the object that the file is; None: the file is one record

    @classmethod
    def find(cls, chunks: Iterable[bytes]) -> _ListOfRecords | None:
        """Return the place of the records; None if a second value follows the first one."""
        stream = JsonStream(chunks)
        if stream.peek() == "[":
            return cls(True, None)  # errors show as its records are read
        member = None
        if stream.peek() == "{":
            member = _member_with_records(stream)
        else:
            stream.value()
        return None if stream.peek() else cls(False, member)

    def records(self, chunks: Iterable[bytes]) -> Iterator[Any]:
        """Yield the records one by one."""
        stream = JsonStream(chunks)
        if self.is_list:
            yield from stream.items()
            stream.end()
        elif self.member is None:
            yield stream.value()
        else:
            for number, _ in enumerate(stream.members()):
                if number == self.member:
                    yield from stream.items()
                    return
                stream.value()


def _member_with_records(stream: JsonStream) -> int | None:
    """Return the number of the only list of objects in an object, unless that is a record."""
    lists = dict[str, int | None]()  # of names given twice, the last one counts
    for number, name in enumerate(stream.members()):
        lists[name] = None
        if stream.peek() != "[":
            stream.value()
            continue
        items = stream.items()
        if isinstance(next(items, None), dict):
            lists[name] = number
        for _ in items:
            pass
    found = [number for number in lists.values() if number is not None]
    return found[0] if len(found) == 1 and not lists.keys() & set(TEXT_COLUMNS) else None


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        cause = str(error)
        if isinstance(error, json.JSONDecodeError):  # its own text says "line 1"
            cause = f"{error.msg.removesuffix(' starting at')} at column {error.colno}"
        raise CorpusError(f"{where} is not JSON: {cause}; correct or remove the line") from error


def _record_text(record: Any, where: str, wanted: Wanted) -> bytes:
    if wanted.decide(record):
        return marked(turns_of_record(record, where, wanted.column))
    if not isinstance(record, dict):
        raise CorpusError(f"{where} must be an object, got {record!r:.40}")
    key = _column_of(where, list(record), wanted.column)
    return _text_of(record[key], key, where)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a text that arrives in chunks, without their line breaks."""
    waiting = bytearray()  # of an unfinished line; it may be all of the file
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        waiting += first
        if rest:
            yield _taken(waiting)
            for line in rest[:-1]:
                yield str(line, "utf-8")
            waiting += rest[-1]
    yield _taken(waiting)


def _taken(waiting: bytearray) -> str:
    """Return a text, and empty its buffer."""
    text = str(waiting, "utf-8")
    waiting.clear()
    return text


# ---------------------------------------------------------------------------------------- CSV


def read_table(
    chunks: Iterable[bytes], name: str, wanted: Wanted, separator: str
) -> Iterator[bytes]:
    """Yield the text of each row below the header of a CSV or TSV file, or its conversation if the
    header has instruction and output."""
    import csv

    csv.field_size_limit(_LONGEST_FIELD)
    lines = (line + "\n" for line in _lines(chunks))
    rows = csv.reader(lines, delimiter=separator, strict=True)
    complete = 0  # lines before the row at hand
    try:
        header = next((row for row in rows if any(row)), [])
        is_chat = _is_table_of_conversations(header, name, wanted)
        key = "" if is_chat else _column_of(name, header, wanted.column)
        place = 0 if is_chat else header.index(key)
        numbers: list[bytes] | None = []  # the first values, as long as all are numbers
        complete = rows.line_num
        for row in rows:
            if not row or row == [""]:
                continue
            complete, where = rows.line_num, f"{name} line {rows.line_num}"
            if len(row) != len(header):
                raise CorpusError(
                    f"{where} must have {len(header)} columns as the header has, got {len(row)};"
                    " quote texts that contain the separator"
                )
            if is_chat:
                yield marked(turns_of_record(dict(zip(header, row, strict=True)), where))
                continue
            text = _text_of(row[place], key, where)
            if numbers is None:
                yield text
                continue
            numbers.append(text)
            if not _is_number(row[place]):
                yield from numbers
                numbers = None
            elif len(numbers) == _ALL_NUMBERS:
                break
        if numbers:
            shown = numbers[0].decode("utf-8")
            raise CorpusError(
                f"{name}: column {key} must hold text, got numbers such as {shown:.40};"
                " choose another with --text-column"
            )
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise CorpusError(
                f"{name} is not CSV: the row after line {complete} has a quote that is never"
                " closed; close it, or double each quote inside a text"
            ) from error
        raise CorpusError(
            f"{name} line {rows.line_num} is not CSV: {error}; correct or remove the line"
        ) from error


def _is_table_of_conversations(header: Sequence[str], name: str, wanted: Wanted) -> bool:
    """Return whether each row is a conversation. Raises Unreadable if it must be one and is not."""
    has_columns = is_conversation(dict.fromkeys(header, ""))
    if wanted.conversations and not has_columns:
        raise Unreadable(
            f"{name} must have the columns instruction and output to have conversations, got"
            f" {_listed(header)}; rename its columns",
            "table without conversations",
        )
    return wanted.decide(dict.fromkeys(header, ""))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------ Parquet


def read_parquet(file: BinaryIO, name: str, wanted: Wanted) -> Iterator[bytes]:
    """Yield the text of each row, batch by batch."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingReader(
            f"{name} needs pyarrow", "Parquet file", "pip install 'nanochat-lab[parquet]'"
        ) from error
    size = file.seek(0, 2)
    file.seek(0)
    row = written = 0
    for key, values in _guarded(_batches(parquet, file, name, wanted), name):
        for value in values:
            if wanted.conversations:
                text = marked(turns_of_record(value, f"{name} row {row}", wanted.column))
                row, written = row + 1, written + len(text)
                check_ratio(name, written, size)
                yield text
                continue
            if not isinstance(value, (str, list)):
                raise CorpusError(f"{name} row {row}: {key} must be a string, got {value!r:.40}")
            text = _text_of(value, key, f"{name} row {row}")
            row, written = row + 1, written + len(text)
            check_ratio(name, written, size)
            yield text


def _batches(
    parquet: Any, file: BinaryIO, name: str, wanted: Wanted
) -> Iterator[tuple[str, Iterable[Any]]]:
    """Yield the column's name and its values; of conversations, no name and records."""
    source = parquet.ParquetFile(file, **_STREAMED)
    schema = source.schema_arrow
    if wanted.conversations is None:
        first = next(source.iter_batches(batch_size=1), None)
        wanted.decide(None if first is None or not len(first) else first.to_pylist()[0])
    if wanted.conversations:
        check_ratio(name, _size_in_memory(source.metadata), file.seek(0, 2))
        for batch in source.iter_batches(batch_size=_ROWS):
            yield "", batch.to_pylist()
        return
    key = _column_of(name, schema.names, wanted.column)
    check_ratio(name, _size_in_memory(source.metadata), file.seek(0, 2))
    is_text = str(schema.field(key).type) in ("string", "large_string", "string_view")
    coded = parquet.ParquetFile(file, read_dictionary=[key], **_STREAMED) if is_text else None
    for group in range(source.num_row_groups):
        rows = _ROWS if coded is None else _rows_at_a_time(coded, group, key)
        for batch in source.iter_batches(batch_size=rows, row_groups=[group], columns=[key]):
            yield key, batch.column(0).to_pylist()


def _size_in_memory(metadata: Any) -> int:
    """Return the bytes of all columns without compression, and of a position for each row.

    Not of one column: pyarrow's `column` ends the process for some damaged headers.
    """
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    size = sum(int(group.total_byte_size) for group in groups)
    return size + int(metadata.num_rows) * _POSITION


def _rows_at_a_time(coded: Any, group: int, key: str) -> int:
    """Return how many rows a batch of a row group may have.

    A row group stores repeated strings once, in a dictionary. A batch of them could be many times
    as large as the file.
    """
    first = next(coded.iter_batches(batch_size=1, row_groups=[group], columns=[key]), None)
    values: Any = None if first is None else first.column(0)
    if not hasattr(values, "dictionary") or len(values.dictionary) == 0:
        return _ROWS
    from pyarrow import compute

    longest = compute.max(compute.binary_length(values.dictionary)).as_py() or 1
    return max(1, min(_ROWS, _BATCH // longest))


def _guarded(batches: Iterator[Any], name: str) -> Iterator[Any]:
    """Turn every exception of pyarrow into a CorpusError. It raises many types for odd files."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (CorpusError, MemoryError):
            raise
        except Exception as error:
            raise Unreadable(
                f"cannot read {name} as Parquet: {reason(error)}; copy or download it again",
                "damaged Parquet file",
            ) from error
        yield batch
