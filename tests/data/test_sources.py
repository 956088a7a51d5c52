"""Every kind of source gives the text that was written into it; every broken one, one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from nanochat.data.corpus import load_corpus
from nanochat.data.sources import fetching, opening, records
from nanochat.data.sources.decoding import utf8
from nanochat.data.sources.records import Wanted, read_json
from nanochat.errors import CorpusError, MissingDependency

TEXT = "Ein Text — mit Ümläuten,\nzwei Zeilen und 🚀.\n" * 20
CHOOSE = "choose one with --text-column"


@pytest.fixture(autouse=True)
def _forget():
    yield
    fetching.forget()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def texts(data, documents="file", **options):
    return list(load_corpus(data, documents, **options).documents)


def message(data, **options):
    with pytest.raises((CorpusError, MissingDependency)) as caught:
        load_corpus(data, "file", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zstd(raw):
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(raw)


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
KINDS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}


# ----------------------------------------------------------------------------------- compression


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.txt{}", "a{}", "A.TXT{}", "without a suffix"])
def test_a_compressed_text_is_the_text_whatever_its_name(tmp_path, suffix, name):
    path = write(tmp_path / name.format(suffix.upper()), COMPRESS[suffix](TEXT.encode()))
    assert texts(path) == [TEXT]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_all_members_of_a_compressed_file_are_read(tmp_path, suffix):
    raw = COMPRESS[suffix](b"first\n") + COMPRESS[suffix](b"") + COMPRESS[suffix](b"second\n")
    assert texts(write(tmp_path / "a", raw)) == ["first\nsecond\n"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_truncated_or_damaged_file_is_one_line(tmp_path, suffix):
    raw = COMPRESS[suffix](os.urandom(4000).hex().encode())
    path = write(tmp_path / f"a.txt{suffix}", raw[:-20])
    assert message(path) == (f"{path} is truncated {KINDS[suffix]} data; copy or download it again")
    middle = len(raw) // 2
    path = write(tmp_path / "b", raw[:middle] + b"\xff" * 40 + raw[middle + 40 :])
    assert message(path).startswith(f"{path} is ")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_that_expands_too_far_is_refused_before_memory_is_full(
    tmp_path, suffix, monkeypatch
):
    monkeypatch.setattr(opening, "FREE_BYTES", 1 << 20)
    path = write(tmp_path / f"bomb{suffix}", COMPRESS[suffix](b"a" * (1 << 25)))
    assert message(path).startswith(f"{path} must not expand to more than 250 times its size, got ")
    write(tmp_path / "a.txt", "fine")
    corpus = load_corpus(str(tmp_path))
    assert corpus.notes == (f"{tmp_path}: skipped 1 file that expands too far",)


def test_zstd_without_its_package_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zst", zstd(b"text"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert message(path) == f"{path} needs zstandard; pip install 'nanochat-lab[zstd]'"


def test_compressed_records_are_records(tmp_path):
    raw = b'{"text": "one"}\n{"text": "two"}\n'
    assert texts(write(tmp_path / "a.JSONL.gz", gzip.compress(raw))) == ["one", "two"]
    assert texts(write(tmp_path / "b", bz2.compress(raw))) == ["one", "two"]


# --------------------------------------------------------------------------------------- decoding


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.data())
def test_a_text_arrives_whole_in_chunks_of_any_size_and_every_encoding(text, data):
    encoding, mark = data.draw(
        st.sampled_from([("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"),
                         ("utf-16-be", b"\xfe\xff")])
    )  # fmt: skip
    text = text.lstrip("\ufeff")
    assume(mark or text[:1] != "\ufffe")
    raw = mark + text.encode(encoding)
    chunks = []
    while raw:
        size = data.draw(st.integers(1, 5))
        chunks.append(raw[:size])
        raw = raw[size:]
    pieces = list(utf8(chunks, "a"))
    assert b"".join(pieces).decode() == text
    for piece in pieces:
        piece.decode()  # no piece ends inside a character


@given(st.binary(max_size=40), st.integers(1, 7))
@example(b"\xc2\xf0\x80\x80\x00", 1)  # the last character of the chunk hid the first
@example(b"\xc2\xf0\x9f\x98\x80", 1)
@example(b"text\xe2\x82\xc3\xa9", 3)
def test_invalid_bytes_are_named_at_the_place_that_python_names(raw, size):
    assume(not raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")))
    chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
    try:
        expected = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        expected = error.start
    try:
        got = b"".join(utf8(chunks, "a")).decode()
    except CorpusError as error:
        first_nul = raw.find(b"\0")
        if "NUL" in str(error):
            assert str(error) == f"a is not text: NUL at byte {first_nul}; give UTF-8 text"
        else:
            place = int(str(error).split("at byte ")[1].split(";")[0])
            assert place == expected
    else:
        assert b"\0" not in raw
        assert got == expected.removeprefix("\ufeff")


def test_damaged_utf16_is_one_line(tmp_path):
    path = write(tmp_path / "a.txt", b"\xff\xfea\0\0\xd8b\0")
    assert message(path).startswith(f"{path} is not UTF-16: ")
    path = write(tmp_path / "b.txt", b"\xff\xfea")
    assert message(path).startswith(f"{path} is not UTF-16: ")


def test_nul_in_a_huge_sparse_file_is_found_in_its_first_chunk(tmp_path):
    path = tmp_path / "sparse.txt"
    with open(path, "wb") as file:
        file.write(b"text")
        file.truncate(1 << 40)
    assert message(str(path)) == f"{path} is not text: NUL at byte 4; give UTF-8 text"


def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = Path(write(tmp_path / "a.txt", "x" * 5000))
    monkeypatch.setattr(opening, "CHUNK", 1000)
    original = opening.expanded

    def touching(file, name, kind):
        for chunk in original(file, name, kind):
            if path.stat().st_size == 5000:
                path.write_bytes(b"y" * 5001)
            yield chunk

    from nanochat.data.sources import reading

    monkeypatch.setattr(reading, "expanded", touching)
    assert message(str(path)) == (
        f"{path} changed while it was read; run the command again when it is complete"
    )


# ---------------------------------------------------------------------------------------- formats

MAGIC = {
    "PNG image": b"\x89PNG\r\n\x1a\n\0\0", "JPEG image": b"\xff\xd8\xff\xe0\0", "GIF image": b"GIF89a\0",
    "SQLite database": b"SQLite format 3\0", "compiled program": b"\x7fELF\2\1\1\0",
    "7-Zip archive": b"7z\xbc\xaf\x27\x1c\0", "NumPy array": b"\x93NUMPY\1\0",
    "Windows program": b"MZ\x90\0", "RTF document": b"{\\rtf1 text}",
    "tar archive": b"a.txt".ljust(257, b"\0") + b"ustar\x0000",
}  # fmt: skip


@pytest.mark.parametrize("kind", MAGIC)
def test_a_named_file_that_cannot_be_read_says_what_it_is(tmp_path, kind):
    path = write(tmp_path / "notes.txt", MAGIC[kind] + b"\0" * 20 * (kind != "RTF document"))
    article = "an" if kind[0] in "AEIOaeio" or kind.startswith("RTF") else "a"
    assert message(path).startswith(f"{path} is {article} {kind}; ")


def test_zip_archives_say_what_they_hold(tmp_path):
    def archive(*names):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name in names:
                file.writestr(name, "x")
        return buffer.getvalue()

    path = write(tmp_path / "a.txt", archive("b.txt"))
    assert message(path) == f"{path} is a zip archive; unpack it and give the folder"
    path = write(tmp_path / "b", archive("xl/workbook.xml"))
    assert message(path) == f"{path} is an Excel workbook; save it as .csv"
    path = write(tmp_path / "c", archive("b.txt")[:-10])
    assert message(path) == f"{path} is a zip archive; unpack it and give the folder"


def test_a_text_that_begins_like_a_binary_is_text(tmp_path):
    for number, text in enumerate(["MZ and other letters", "ID3 is a standard", "OggS", "BZ text"]):
        assert texts(write(tmp_path / f"{number}.txt", text)) == [text]


# ---------------------------------------------------------------------------------------- records

RECORDS = [
    {"id": 1, "text": 'eins, "zwei"\nund ü'},
    {"id": 2, "text": ""},
    {"id": 3, "text": "drei"},
]
WANTED = [record["text"] for record in RECORDS]


def table(separator, quote='"'):
    rows = [("id", "text"), *((str(r["id"]), r["text"]) for r in RECORDS)]
    return "\n".join(
        separator.join(f'"{cell.replace(quote, quote * 2)}"' for cell in row) for row in rows
    )


FILES = {
    "a.jsonl": "\n".join(map(json.dumps, RECORDS)), "b.NDJSON": "\n".join(map(json.dumps, RECORDS)),
    "c.json": json.dumps(RECORDS, indent=2), "d.Json": json.dumps({"version": 1, "data": RECORDS}),
    "e.json": "\n".join(map(json.dumps, RECORDS)), "f.csv": table(","), "g.TSV": table("\t"),
    "h.txt": "\n".join(map(json.dumps, RECORDS)), "without": json.dumps(RECORDS),
    "i.txt": table(","), "j": table("\t"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_records_give_their_texts_by_name_and_by_content(tmp_path, name, encoding):
    path = write(tmp_path / name, FILES[name].encode(encoding))
    corpus = load_corpus(path)
    assert (list(corpus.documents), corpus.kind) == (WANTED, "record")


def test_a_json_list_of_texts_and_a_single_record_are_documents(tmp_path):
    assert texts(write(tmp_path / "a.json", '["one", "two"]')) == ["one", "two"]
    assert texts(write(tmp_path / "b.json", '{"content": "one"}')) == ["one"]
    assert texts(write(tmp_path / "c.json", ' "one" ')) == ["one"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a": 1, "b": [{"text": "B"}, {"text": "C"}], "c": [1, 2], "d": []}', ["B", "C"]),
        ('{"b": [{"text": "A"}], "c": {"text": "D"}, "b": [{"text": "B"}]}', ["B"]),
        ('{"b": 1, "c": [{"text": "A"}], "b": [{"text": "B"}], "c": 2}', ["B"]),
        ('{"content": "A", "b": [{"text": "B"}]}', ["A"]),
        ('{"b": [{"text": "B"}], "messages": [{"role": "me", "content": "A"}]}', ["me: A"]),
    ],
)
def test_the_records_of_a_json_object_are_its_only_list_of_objects(tmp_path, text, wanted):
    assert texts(write(tmp_path / "a.json", text)) == wanted
    assert texts(write(tmp_path / "b.json", text.replace(", ", "\n,\r\n\t"))) == wanted


def test_a_json_object_of_two_lists_is_one_record(tmp_path):
    path = write(tmp_path / "a.json", '{"a": [{"text": "A"}], "b": [{"text": "B"}]}')
    assert message(path) == (
        f"{path} record 1 must have a column text or content or messages, got a, b; {CHOOSE}"
    )


@pytest.mark.parametrize(
    "damage", ["", "]]", ",]", '{"text": 1', '"\\x"', "x", "]\n[", "[" * 200_000]
)
@pytest.mark.parametrize("start", ['["A", "B",\n"C"', '{"n": 1, "a": [{"text": "A"}'])
def test_a_damaged_json_file_is_named_with_the_place(tmp_path, start, damage):
    path = write(tmp_path / "a.json", start + damage)
    try:
        json.loads(start + damage)
    except RecursionError as error:
        assert message(path).startswith(f"{path} is not JSON: {str(error)[:30]}")
    except ValueError as error:
        assert message(path) == f"{path} is not JSON: {error}"
    write(tmp_path / "b.json", '["D"]')
    corpus = load_corpus(str(tmp_path))
    assert list(corpus.documents) == ["D"]
    assert corpus.notes == (f"{tmp_path}: skipped 1 damaged JSON file",)


def test_a_json_list_is_read_record_by_record():
    given = 0

    def chunks():
        nonlocal given
        yield b'{"n": [1], "records": ['
        for given in range(1, 1001):
            yield b'{"text": "%d"},' % given
        yield b'{"text": "end"}]}'

    found = read_json(chunks, "a.json", Wanted(None))
    assert [next(found), next(found), given <= 4] == [b"1", b"2", True]
    assert list(found)[-2:] == [b"1000", b"end"]


def test_the_column_is_the_one_named_or_text_content_messages_in_this_order(tmp_path):
    record = {"content": "C", "text": "T", "messages": [], "other": "O"}
    path = write(tmp_path / "a.jsonl", json.dumps(record))
    assert texts(path) == ["T"]
    assert texts(path, text_column="other") == ["O"]
    del record["text"]
    assert texts(write(tmp_path / "b.jsonl", json.dumps(record))) == ["C"]


def test_chat_messages_become_one_text_per_conversation(tmp_path):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello\nyou"}]
    path = write(tmp_path / "a.jsonl", json.dumps({"messages": chat}))
    assert texts(path) == ["user: Hi\n\nassistant: Hello\nyou"]
    for wrong in ([1], [{"role": "user"}], [{"role": 1, "content": "x"}]):
        path = write(tmp_path / "b.jsonl", json.dumps({"messages": wrong}))
        assert "messages must be a string or messages with role and content, got " in message(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_the_error_lists_the_columns(tmp_path, name):
    columns = ["id", "title", "body"]
    path = tmp_path / name
    if name.endswith("parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({c: ["x"] for c in columns}), path)
    elif name.endswith("sv"):
        write(path, ("\t" if "tsv" in name else ",").join(columns) + "\n")
    else:
        write(path, json.dumps(dict.fromkeys(columns, "x")))
    where = {"a.jsonl": " line 1", "a.json": " record 1"}.get(name, "")
    wanted = "must have a column text or content or messages, got id, title, body;"
    assert message(str(path)) == f"{path}{where} {wanted} {CHOOSE}"
    assert message(str(path), text_column="boddy") == (
        f"{path}{where} must have a column boddy, got id, title, body; {CHOOSE}"
    )


def test_a_line_break_in_the_name_of_a_column_is_escaped(tmp_path):
    path = write(tmp_path / "a.csv", '"a\nb",c\n1,2\n')
    wanted = "must have a column text or content or messages, got a\\nb, c;"
    assert message(str(path)) == f"{path} {wanted} {CHOOSE}"


def test_a_csv_whose_column_is_numbers_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", "text,price\n" + "".join(f"t{i},{i}.5\n" for i in range(2000)))
    assert message(path, text_column="price") == (
        f"{path}: column price must hold text, got numbers such as 0.5; choose another with"
        " --text-column"
    )
    path = write(tmp_path / "b.csv", "text\n1\n2\nthree\n4\n")
    assert texts(path) == ["1", "2", "three", "4"]


def test_a_row_of_another_width_is_named_by_its_line(tmp_path):
    path = write(tmp_path / "a.csv", "id,text\n1,one\n2\n")
    assert message(path) == (
        f"{path} line 3 must have 2 columns as the header has, got 1; quote texts that contain the"
        " separator"
    )


def test_a_quote_that_is_never_closed_is_named_by_the_row_before_it(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\n1,one\n2,"two\n3,three\n4,four\n')
    assert message(path) == (
        f"{path} is not CSV: the row after line 2 has a quote that is never closed; close it, or"
        " double each quote inside a text"
    )
    path = write(tmp_path / "b.csv", 'id,text\n1,"one" two\n')
    assert message(path).startswith(f"{path} line 2 is not CSV: ")


@pytest.mark.parametrize(("encoding", "bom"), [("utf-16-le", b""), ("utf-16-be", b"")])
def test_utf16_without_a_mark_is_recognized(tmp_path, encoding, bom):
    path = write(tmp_path / "a.txt", bom + "Plain words.\n".encode(encoding))
    title = encoding.replace("-le", "le").replace("-be", "be")
    assert message(path) == (
        f"{path} is not UTF-8: it looks like UTF-16 without a byte order mark; convert it with"
        f" iconv -f {title} -t utf-8"
    )


@pytest.mark.parametrize(("inner", "kind"), [(gzip, "gzip"), (bz2, "bzip2"), (lzma, "xz")])
def test_a_compressed_file_in_a_compressed_file_is_named(tmp_path, inner, kind):
    path = write(tmp_path / "a.txt.gz", gzip.compress(inner.compress(b"text\n" * 9)))
    article = "an" if kind == "xz" else "a"
    assert message(path) == (
        f"{path} is a gzip file that holds {article} {kind} file; decompress it first"
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1),
        min_size=1,
        max_size=5,
    )
)
def test_every_text_survives_jsonl_csv_and_parquet(tmp_path, values):
    import csv

    import pyarrow
    import pyarrow.parquet

    write(
        tmp_path / "a.jsonl", "\n".join(json.dumps({"text": v}, ensure_ascii=False) for v in values)
    )
    assert texts(str(tmp_path / "a.jsonl")) == values
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
    assert texts(str(tmp_path / "a.parquet")) == values
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["text"], ["letters first"], *([v] for v in values)]
        )
    assert texts(str(tmp_path / "a.csv")) == ["letters first", *values]


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("rows", [1, 300, 5000])
def test_parquet_texts_are_those_of_every_row_group(tmp_path, monkeypatch, dictionary, rows):
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(records, "_BATCH", 1 << 12)
    values = [("ab" * (i % 7 * 300) if i % 2 else f"text {i} ü") for i in range(3000)]
    table = pyarrow.table({"id": range(len(values)), "text": values})
    path = tmp_path / "a.parquet"
    groups = {"row_group_size": rows, "use_dictionary": dictionary}
    pyarrow.parquet.write_table(table.slice(0, 100 * rows), path, **groups)
    assert texts(str(path)) == values[: 100 * rows]


def test_repeated_parquet_texts_are_read_in_batches_of_a_limited_size(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["x" * 1000, "y"] * 500})
    pyarrow.parquet.write_table(table, path)
    for limit, rows in ((100, 1), (2000, 2), (5999, 5), (1 << 24, 256)):
        monkeypatch.setattr(records, "_BATCH", limit)
        with open(path, "rb") as file:
            batches = records._batches(pyarrow.parquet, file, "a", Wanted(None))
            assert max(len(list(values)) for _, values in batches) == rows


def test_parquet_of_repeated_long_texts_is_refused_before_memory_is_full(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(opening, "FREE_BYTES", 1 << 20)
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 10_000] * 5000}), path)
    assert path.stat().st_size < 50_000
    assert message(str(path)).startswith(f"{path} must not expand to more than 250 times its size")


@pytest.mark.parametrize(
    ("values", "least"), [(["x" * (1 << 25)], 1 << 25), ([""] * (1 << 22), 1 << 25)]
)
def test_a_parquet_file_is_measured_by_its_metadata_before_a_value_is_decoded(
    tmp_path, monkeypatch, values, least
):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), path, compression="zstd")
    assert path.stat().st_size < 20_000

    def decode(*words, **options):
        raise AssertionError("a value was decoded")

    monkeypatch.setattr(records, "_rows_at_a_time", decode)
    words = message(str(path))
    assert words.startswith(f"{path} must not expand to more than 250 times its size, got ")
    written, size = (int(n.replace(",", "")) for n in re.findall(r"[0-9,]+(?= bytes|;)", words))
    assert least <= written < 1.1 * least
    assert size == path.stat().st_size


@pytest.mark.parametrize("kind", ["int8", "uint16", "int64", "float16", "bool", "date32"])
def test_parquet_columns_that_are_not_text_are_named_with_their_value(tmp_path, kind):
    import pyarrow
    import pyarrow.parquet

    values = pyarrow.array([1, 2], "int32").cast({"float16": "float32"}.get(kind, kind))
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": values, "content": ["a", "b"]}), path)
    assert message(str(path)).startswith(f"{path} row 0: text must be a string, got ")
    assert texts(str(path), text_column="content") == ["a", "b"]


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_damaged_parquet_file_is_read_or_refused_in_one_line(tmp_path, place, damage):
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2], "text": ["a", "b"]}), buffer)
    raw = bytearray(buffer.getvalue())
    place = len(raw) - 12 - place % (len(raw) - 20)  # in the footer, mostly
    raw[place : place + len(damage)] = damage
    path = write(tmp_path / "a.parquet", bytes(raw))
    try:
        documents = texts(path)
    except CorpusError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(document, str) for document in documents)


# ------------------------------------------------------------------------- HTML, PDF, Word, EPUB

PAGE = """<!DOCTYPE html><html><head><title>No</title><style>p {x: y}</style>
<script>if (a < b) { document.write("<p>no</p>") }</script></head>
<body><h1>Head &amp; line</h1><p>One <b>bold</b>
word,  two&nbsp;spaces.<br>New line</p><!-- hidden --><ul><li>first<li>second</ul>
<pre>  kept
    as is</pre><script>no()</script><svg><text>no</text></svg></body></html>"""
SHOWN = (
    "Head & line\n\nOne bold word, two\xa0spaces.\nNew line\n\nfirst\nsecond\n\n  kept\n    as is"
)


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.xhtml", "page", "page.txt"])
def test_html_is_its_text_without_tags_scripts_and_styles(tmp_path, name):
    assert texts(write(tmp_path / name, PAGE)) == [SHOWN]
    assert texts(write(tmp_path / f"{name}.gz", gzip.compress(PAGE.encode()))) == [SHOWN]


def test_html_is_the_same_in_chunks_of_any_size(monkeypatch, tmp_path):
    path = write(tmp_path / "a.html", PAGE)
    for size in (5, 17, 64):
        monkeypatch.setattr(opening, "CHUNK", size)
        assert texts(path) == [SHOWN]


@pytest.mark.parametrize(
    "page", ["<html></html>", "<p> \n</p><script>x</script>", "<title>t</title>"]
)
def test_html_without_text_is_refused(tmp_path, page):
    path = write(
        tmp_path / "a.html",
        f"<html><head></head><body>{page}</body></html>"
        if page[1] != "t"
        else f"<html><head>{page}</head></html>",
    )
    assert message(path) == (
        f"{path} must contain text outside its tags, got none; give another page"
    )


@given(st.text(st.sampled_from("<>/!-[]&;#x\"'=ab p")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broken_html_is_read_or_refused_in_one_line(tmp_path, text):
    path = write(tmp_path / "a.html", text)
    try:
        documents = texts(path)
    except CorpusError as error:
        assert path in str(error) and "\n" not in str(error)
    else:
        assert documents and all(document.strip() for document in documents)


def test_markdown_is_text_with_its_marks(tmp_path):
    text = "# Title\n\n<b>bold</b> *text*\n"
    assert texts(write(tmp_path / "a.md", text)) == [text]


def pdf(text):
    """A PDF of one page with one line of text."""
    stream = f"BT /F1 24 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]  # fmt: skip
    raw, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(raw))
        raw += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(raw)
    raw += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % p for p in places)
    return raw + b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start


def word(*paragraphs):
    import docx

    document, buffer = docx.Document(), io.BytesIO()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    rows = document.add_table(rows=1, cols=2).rows
    rows[0].cells[0].text, rows[0].cells[1].text = "left", "right"
    document.save(buffer)
    return buffer.getvalue()


def epub(*pages, readings=1):  # of each page
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("mimetype", "application/epub+zip")
        file.writestr(
            "META-INF/container.xml",
            '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        )
        items = "".join(f'<item id="p{i}" href="page%20{i}.xhtml"/>' for i in range(len(pages)))
        spine = "".join(f'<itemref idref="p{i}"/>' for i in reversed(range(len(pages)))) * readings
        file.writestr(
            "OPS/book.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>',
        )
        for i, page in enumerate(pages):
            file.writestr(f"OPS/page {i}.xhtml", f"<html><body><p>{page}</p></body></html>")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.pdf", "a.txt", "a.docx", "a.epub", "a"])
def test_documents_are_read_by_their_content_whatever_their_name(tmp_path, name):
    assert texts(write(tmp_path / name, pdf("Hello text"))) == ["Hello text"]
    assert texts(write(tmp_path / name, word("One", "Zwei ü"))) == ["One\nZwei ü\nleft\tright\n"]
    assert texts(write(tmp_path / name, epub("second ü", "first"))) == ["first\n\nsecond ü"]
    assert texts(write(tmp_path / name, gzip.compress(pdf("Hello")))) == ["Hello"]


def test_documents_without_their_package_name_format_and_extra(tmp_path, monkeypatch):
    notes, letter = write(tmp_path / "notes.txt", pdf("x")), write(tmp_path / "b.docx", word("x"))
    for module in ("pypdf", "docx"):
        monkeypatch.setitem(sys.modules, module, None)
    assert message(notes) == f"{notes} is a PDF; pip install 'nanochat-lab[documents]'"
    assert message(letter) == f"{letter} is a Word document; pip install 'nanochat-lab[documents]'"
    write(tmp_path / "c.txt", "fine")
    assert load_corpus(str(tmp_path)).notes == (
        f"{tmp_path}: skipped 1 PDF (pip install 'nanochat-lab[documents]'), 1 Word document"
        " (pip install 'nanochat-lab[documents]')",
    )


@pytest.mark.parametrize("make", [lambda: pdf("x"), lambda: word("x"), lambda: epub("x")])
def test_damaged_documents_are_one_line(tmp_path, make):
    raw = make()
    for number, damaged in enumerate((raw[: len(raw) // 2], raw[:100], raw[:50] + b"\xff" * 200)):
        refusal = message(write(tmp_path / f"{number}.pdf", damaged))
        assert str(tmp_path) in refusal
        assert ";" in refusal  # a way out follows


def test_a_document_without_text_is_refused(tmp_path):
    path = write(tmp_path / "a.pdf", pdf(""))
    assert message(path) == (
        f"{path} must contain text, got a PDF without any; its pages may be pictures"
    )


def test_a_zip_bomb_in_an_e_book_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "FREE_BYTES", 1 << 20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("META-INF/container.xml", "<p>" + "a" * (1 << 25))
    path = write(tmp_path / "a.epub", buffer.getvalue())
    assert message(path).startswith(f"{path} must not expand to more than 250 times its size")


def test_an_e_book_that_names_a_page_many_times_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "FREE_BYTES", 1 << 20)
    page = "".join(map(chr, range(0x4E00, 0x9000))) * 2
    assert len(texts(write(tmp_path / "a.epub", epub(page, readings=5)))[0]) > 5 * len(page)
    path = write(tmp_path / "b.epub", epub(page, readings=500))
    assert message(path).startswith(f"{path} must not expand to more than 250 times its size, got ")


# ---------------------------------------------------------------------------------------- folders


def test_a_folder_skips_what_it_cannot_read_and_counts_it(tmp_path):
    write(tmp_path / "a.txt", "A")
    write(tmp_path / "b.jsonl", '{"text": "B"}')
    write(tmp_path / "c.json", '{"name": "settings"}')
    write(tmp_path / "d.json", "{// a comment")
    write(tmp_path / "e.png", MAGIC["PNG image"])
    write(tmp_path / "sub" / "f.png", MAGIC["PNG image"])
    write(tmp_path / "g.bin", b"a\0b")
    write(tmp_path / "h.txt", "ü".encode("latin-1"))
    write(tmp_path / "i.html", "<html></html>")
    write(tmp_path / "j.gz", gzip.compress(os.urandom(100))[:50])
    write(tmp_path / ".hidden", "no")
    write(tmp_path / ".git" / "config", "no")
    os.symlink("a.txt", tmp_path / "k.txt")
    os.symlink("nothing", tmp_path / "l.txt")
    corpus = load_corpus(str(tmp_path))
    assert list(corpus.documents) == ["A", "B"]
    assert corpus.notes == (
        f"{tmp_path}: skipped 1 HTML page without text, 2 PNG images, 1 binary file, 1 broken link,"
        " 1 damaged JSON file, 1 damaged file, 1 file of records without a text column,"
        " 1 file that is not UTF-8, 1 hidden file, 1 hidden folder,"
        " 1 link to a file that is read already",
    )


def test_a_file_that_several_names_lead_to_is_read_once(tmp_path, monkeypatch):
    """Twice, one copy would be trained on and the other one validate."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write(tmp_path / "t" / f"{number}.txt", f"text {number}")
    os.symlink("t", "u")
    os.link("t/1.txt", "hard.txt")
    once = [f"text {number}" for number in range(3)]
    one, three = "skipped 1 file that was read already", "skipped 3 files that were read already"
    for names, documents, notes in (
        (("t", "u"), once, (f"u: {three}",)),
        (("t", "t"), once, (f"t: {three}",)),
        (("t", "t/1.txt"), once, (f"t/1.txt: {one}",)),
        (("t/1.txt", "t/1.txt"), once[1:2], (f"t/1.txt: {one}",)),
        (("hard.txt", "t"), [once[1], once[0], once[2]], (f"t: {one}",)),
        (("t/0.txt", "t/1.txt"), once[:2], ()),
    ):
        corpus = load_corpus(names, "file")
        assert list(corpus.documents) == documents
        assert corpus.notes == notes
    assert len(load_corpus(("names", "registry:names")).documents) == len(
        load_corpus("names").documents
    )


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "a.NDJSON", "a.JSON", "a.Csv", "a.TSV"])
def test_the_case_of_a_suffix_does_not_matter(tmp_path, name):
    content = {".csv": "id,text\n1,x\n2,y\n", ".tsv": "id\ttext\n1\tx\n2\ty\n"}.get(
        Path(name).suffix.lower(), '{"text": "x"}\n{"text": "y"}\n'
    )
    assert texts(write(tmp_path / name, content)) == ["x", "y"]


@pytest.mark.parametrize("name", ["a.PARQUET", "a.Parquet"])
def test_the_case_of_the_suffix_of_a_parquet_file_does_not_matter(tmp_path, name):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "y"]}), tmp_path / name)
    assert texts(str(tmp_path / name)) == ["x", "y"]


def test_a_folder_skips_run_folders_of_this_program(tmp_path):
    write(tmp_path / "a.txt", "A")
    for run in ("runs/1", "runs/2"):
        write(tmp_path / run / "config.toml", 'mode = "scalar"')
        write(tmp_path / run / "checkpoints" / "step-000001" / "config.json", '{"text": "no"}')
        write(tmp_path / run / "metrics.jsonl", '{"text": "no"}')
    write(tmp_path / "ablations/x/results.csv", "text\nno")
    write(tmp_path / "ablations/x/table.md", "no")
    corpus = load_corpus(str(tmp_path))
    assert list(corpus.documents) == ["A"]
    assert corpus.notes == (f"{tmp_path}: skipped 3 run folders of this program",)
    run = tmp_path / "runs/1"
    assert message(str(run)) == (
        f"data {run} is a run folder of this program, not a text; give the text itself"
    )


def many_files(folder, count):
    for number in range(count):
        (folder / f"{number:05}.txt").write_text(f"text {number}")
    corpus = load_corpus(str(folder))
    assert list(corpus.documents) == [f"text {number}" for number in range(count)]


def test_a_folder_of_many_files_is_read_in_order(tmp_path):
    many_files(tmp_path, 2000)


@pytest.mark.long
def test_a_folder_of_fifty_thousand_files_is_read_in_order(tmp_path):
    many_files(tmp_path, 50_000)


def test_several_sources_are_read_in_the_given_order(tmp_path):
    paths = [write(tmp_path / "b.txt", "B"), write(tmp_path / "a.jsonl", '{"text": "A"}')]
    corpus = load_corpus(paths)
    assert (list(corpus.documents), corpus.kind, corpus.name) == (
        ["B", "A"],
        "file",
        ", ".join(paths),
    )


def test_an_unknown_home_folder_is_one_line():
    assert message("~nosuchuser/a.txt") == (
        "no such file or folder: ~nosuchuser/a.txt (its user has no home folder)"
    )
    assert message("~nosuchuser").startswith("no such file or folder: ~nosuchuser")


# ------------------------------------------------------------------------- standard input and URLs


class Stdin:
    """A fake standard input with the given bytes."""

    def __init__(self, raw, tty=False):
        self.buffer = io.BytesIO(raw)
        self.buffer.isatty = lambda: tty


def test_standard_input_is_read_once_and_recognized_by_content(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n')))
    for _ in range(2):
        corpus = load_corpus("-")
        assert (list(corpus.documents), corpus.kind) == (["one", "two"], "record")


def test_standard_input_that_is_a_terminal_empty_or_shared_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin(b"", tty=True))
    assert message("-").startswith("data - reads standard input, which is a terminal; pipe a text")
    monkeypatch.setattr(sys, "stdin", None)
    assert message("-") == "standard input is closed; pipe a text into the command"
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    assert message("-") == "standard input contains no text; give a text of at least one character"
    fetching.forget()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert message("-").startswith("data - (standard input) needs a single process, got 2")


@pytest.fixture
def server():
    """A loopback server of `pages` by path."""
    pages = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in pages:
                self.send_error(404)
                return
            promised, body = pages[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield pages, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def serve(pages, path, body, promised=None):
    pages[path] = (len(body) if promised is None else promised, body)


def test_a_url_gives_the_text_by_its_content_and_the_name_in_its_path(server):
    pages, base = server
    serve(pages, "/a.txt", TEXT.encode())
    serve(pages, "/b.csv.gz?x=1.html", gzip.compress(b"id,text\n1,one\n2,two\n"))
    serve(pages, "/c", PAGE.encode())
    assert texts(f"{base}/a.txt") == [TEXT]
    assert texts(f"{base}/b.csv.gz?x=1.html") == ["one", "two"]
    assert texts(f"{base}/c") == [SHOWN]


def test_a_url_that_is_not_there_is_one_line(server):
    pages, base = server
    assert message(f"{base}/none") == (
        f"cannot download {base}/none: the server answered 404 Not Found; check the address"
    )
    serve(pages, "/short", b"abc", promised=10)
    assert message(f"{base}/short") == (
        f"cannot download {base}/short: it ended after 3 of 10 bytes; try again"
    )
    closed = "http://127.0.0.1:9/x"
    assert message(closed) == (
        f"cannot download {closed}: Connection refused; check the address and the network, or give"
        " a file"
    )
    for odd in ("http://", "http://[", "https://a b/", "http://127.0.0.1:99999999/"):
        assert message(odd).startswith(f"cannot download {odd}: ")
    assert message("ftp://host/a.txt") == (
        "a URL must start with http:// or https://, got ftp://host/a.txt"
    )


def test_kept_copies_are_read_instead_of_the_source(tmp_path, server, monkeypatch):
    pages, base = server
    url = f"{base}/a.jsonl"
    serve(pages, "/a.jsonl", b'{"text": "one"}\n')
    monkeypatch.setattr(sys, "stdin", Stdin(b"from stdin"))
    corpus = load_corpus([url, "-"])
    fetching.keep_sources(corpus.fetched, tmp_path)
    fetching.forget()
    pages.clear()
    monkeypatch.setattr(sys, "stdin", None)
    again = load_corpus([url, "-"], folder=tmp_path)
    assert list(again.documents) == list(corpus.documents) == ["one", "from stdin"]
    names = {path.name for path in (tmp_path / "sources").iterdir()}
    digests = {source.sha256 for source in corpus.fetched}
    assert names == {"index.json", *(d + s for d in digests for s in (".jsonl", ".txt"))} & names
    assert len(names) == 3
    fetching.keep_sources(again.fetched, tmp_path)  # a resume keeps what is there
    assert {path.name for path in (tmp_path / "sources").iterdir()} == names


def test_a_kept_copy_that_was_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin(b"text"))
    corpus = load_corpus("-")
    fetching.keep_sources(corpus.fetched, tmp_path)
    copy = tmp_path / "sources" / f"{corpus.fetched[0].sha256}.txt"
    copy.write_bytes(b"other")
    assert message("-", folder=tmp_path) == (
        f"{copy} must have the SHA-256 {corpus.fetched[0].sha256[:12]}…; it was changed, restore it"
    )
    index = tmp_path / "sources" / "index.json"
    for content in ("{", "[]", '{"-": {}}', '{"-": []}', "[" * 100_000):
        index.write_text(content)
        assert message("-", folder=tmp_path) == (
            f"{index} must be a JSON object with sha256 and file of each source, got another"
            " content; restore it"
        )
    index.unlink()
    index.mkdir()
    assert message("-", folder=tmp_path) == (
        f"cannot read {index}: it must be a regular file, got a folder; restore it"
    )
