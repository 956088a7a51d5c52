"""The documents of each kind of `--data`, and the error message of each that cannot be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data import corpus
from nanochat.data.corpus import load_corpus
from nanochat.errors import CorpusError, MissingDependency

EMPTY = " contains no text; give a text of at least one character"
COLUMNS = "must have a column text or content or messages"
CHOOSE = "choose one with --text-column"
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def message(data: str, documents: str = "auto") -> str:
    with pytest.raises(CorpusError) as caught:
        load_corpus(data, documents)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------- documents


def test_file_is_one_document_with_its_bytes_unchanged(tmp_path):
    text = "Caf\u0065\u0301\r\nΩ 🚀\n\n  end \n"  # not NFC, and stays so
    corpus = load_corpus(write(tmp_path / "a.txt", text))
    assert list(corpus.documents) == [text]
    assert corpus.kind == "file"
    assert corpus.name == str(tmp_path / "a.txt")


def test_lines_keep_their_spaces_and_lose_their_carriage_return(tmp_path):
    path = write(tmp_path / "a.txt", "one \r\n\r\n \t\n\ttwo\nthree\u2028four\r\r\n\rfive")
    corpus = load_corpus(path, "line")
    assert list(corpus.documents) == ["one ", "\ttwo", "three\u2028four\r", "\rfive"]
    assert corpus.kind == "line"


def test_paragraphs_are_separated_by_blank_lines(tmp_path):
    path = write(tmp_path / "a.txt", "\n\na\r\n b\n \t\nc\n\n\n\nd\n")
    assert list(load_corpus(path, "paragraph").documents) == ["a\n b", "c", "d"]


def test_byte_order_mark_at_the_start_is_dropped(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfa\xef\xbb\xbfb")
    assert list(load_corpus(path).documents) == ["a\ufeffb"]


def test_folder_is_its_regular_files_that_are_not_hidden_sorted(tmp_path):
    write(tmp_path / "b.txt", "B")
    write(tmp_path / "a" / "z.md", "AZ")
    write(tmp_path / "a.txt", "A")
    write(tmp_path / ".hidden", b"\0")
    write(tmp_path / ".git" / "x", b"\xff")
    (tmp_path / "empty").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    corpus = load_corpus(str(tmp_path))
    assert list(corpus.documents) == ["A", "AZ", "B"]  # "a.txt" < "a/z.md" < "b.txt"
    assert corpus.kind == "file"


def test_folder_keeps_an_empty_file_as_an_empty_document(tmp_path):
    write(tmp_path / "a", "")
    write(tmp_path / "b", "B")
    assert list(load_corpus(str(tmp_path)).documents) == ["", "B"]


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_folder_counts_a_file_once_however_many_links_point_to_it(tmp_path, link):
    for number in range(20):
        target = Path(write(tmp_path / f"d{number:02}", f"document {number}"))
        link(target, tmp_path / f"d{number:02}.u8")
        link(target, tmp_path / f"a{number:02}.txt")
    documents = list(load_corpus(str(tmp_path)).documents)
    assert documents == [f"document {number}" for number in range(20)]


def test_first_path_in_sorted_order_names_a_linked_file(tmp_path):
    write(tmp_path / "b.txt", '{"text": "record"}')
    write(tmp_path / "c.txt", "C")
    os.symlink("b.txt", tmp_path / "a.jsonl")  # read as records, because a.jsonl comes first
    os.symlink("c.txt", tmp_path / "d.jsonl")  # never read as records
    assert list(load_corpus(str(tmp_path)).documents) == ["record", "C"]


def test_links_to_hidden_and_outside_files_are_read(tmp_path):
    write(tmp_path / "folder" / ".hidden", "H")
    write(tmp_path / "outside", "O")
    os.symlink(".hidden", tmp_path / "folder" / "a")
    os.symlink(tmp_path / "outside", tmp_path / "folder" / "b")
    os.symlink(tmp_path / "outside", tmp_path / "folder" / "c")
    assert list(load_corpus(str(tmp_path / "folder")).documents) == ["H", "O"]


def test_loops_and_broken_links_end(tmp_path):
    write(tmp_path / "folder" / "a.txt", "A")
    os.symlink(tmp_path, tmp_path / "folder" / "up")
    os.symlink(".", tmp_path / "folder" / "same")
    os.symlink("loop", tmp_path / "loop")
    os.symlink("two", tmp_path / "one")
    os.symlink("one", tmp_path / "two")
    os.symlink("nothing", tmp_path / "broken")
    os.symlink("folder/a.txt/b", tmp_path / "below-a-file")
    corpus = load_corpus(str(tmp_path))
    assert list(corpus.documents) == ["A"]
    assert corpus.notes == (f"{tmp_path}: skipped 5 broken links, 2 linked folders",)


def test_jsonl_is_one_document_per_record(tmp_path):
    records = [{"text": "a\nb", "id": 1}, {"text": ""}, {"text": "ü"}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)) + "\r\n\n")
    corpus = load_corpus(path)
    assert list(corpus.documents) == ["a\nb", "", "ü"]
    assert corpus.kind == "record"
    assert list(load_corpus(path, "file").documents) == ["a\nb", "", "ü"]
    assert list(load_corpus(path, "line").documents) == ["a", "b", "ü"]


def test_folder_of_jsonl_is_the_records_of_all(tmp_path):
    write(tmp_path / "2.jsonl", '{"text": "b"}')
    write(tmp_path / "1.jsonl", '{"text": "a"}')
    corpus = load_corpus(str(tmp_path))
    assert (list(corpus.documents), corpus.kind) == (["a", "b"], "record")


def test_parquet_is_one_document_per_row(tmp_path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    parquet.write_table(arrow.table({"id": [1, 2], "text": ["a\nb", "ü"]}), tmp_path / "a.parquet")
    corpus = load_corpus(str(tmp_path / "a.parquet"))
    assert (list(corpus.documents), corpus.kind) == (["a\nb", "ü"], "record")
    parquet.write_table(arrow.table({"id": [1]}), tmp_path / "b.parquet")
    assert message(str(tmp_path / "b.parquet")).endswith(f"{COLUMNS}, got id; {CHOOSE}")
    parquet.write_table(arrow.table({"text": ["a", None]}), tmp_path / "c.parquet")
    assert message(str(tmp_path / "c.parquet")).endswith("row 1: text must be a string, got None")
    write(tmp_path / "d.parquet", "no parquet")
    assert message(str(tmp_path / "d.parquet")) == (
        f"{tmp_path / 'd.parquet'} is a text file, not Parquet; give it the name of a text file"
    )
    write(tmp_path / "e.parquet", b"PAR1" + b"\0" * 40)
    assert message(str(tmp_path / "e.parquet")).startswith(f"cannot read {tmp_path / 'e.parquet'}")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = write(tmp_path / "a.parquet", b"PAR1")
    with pytest.raises(MissingDependency) as caught:
        load_corpus(path)
    assert str(caught.value) == f"{path} needs pyarrow; pip install 'nanochat-lab[parquet]'"


def test_a_file_comes_before_the_registry_name_with_a_note(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_corpus("names").notes == ()
    write(tmp_path / "names", "mine")
    corpus = load_corpus("names")
    assert list(corpus.documents) == ["mine"]
    assert corpus.notes == (
        "data names is the file ./names; registry:names is the registry's text",
    )
    assert len(load_corpus("registry:names").documents) == 16_000
    assert load_corpus("./names").notes == ()
    assert message("registry:name") == (
        "the registry has no 'name' (did you mean 'names'?); it has names, names-makemore,"
        " shakespeare"
    )


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.txt", "x")
    assert list(load_corpus("~/a.txt").documents) == ["x"]


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("content", ["", "\ufeff"])
def test_empty_file_is_refused(tmp_path, content):
    path = write(tmp_path / "a.txt", content)
    assert message(path) == path + EMPTY


@pytest.mark.parametrize("documents", ["line", "paragraph"])
def test_blank_lines_alone_are_refused(tmp_path, documents):
    path = write(tmp_path / "a.txt", " \n\r\n\t\n")
    assert message(path, documents) == (
        f"{path} contains no text but white space; give a text of at least one character"
    )


def test_jsonl_without_text_is_refused(tmp_path):
    for content in ("\n", '{"text": ""}\n'):
        path = write(tmp_path / "a.jsonl", content)
        assert message(path) == path + EMPTY


def test_missing_file_is_named(tmp_path):
    path = str(tmp_path / "none.txt")
    assert message(path) == f"no such file or folder: {path}"
    assert message("none.txt") == "no such file or folder: none.txt"
    below_a_file = write(tmp_path / "a.txt", "x") + "/b"
    assert message(below_a_file) == f"no such file or folder: {below_a_file}"


def test_a_misspelt_file_is_told_which_one_may_be_meant(tmp_path):
    write(tmp_path / "novel.txt", "x")
    write(tmp_path / "no.md", "x")
    for name in ("novle.txt", "novel.tx", "Novel.txt"):
        path = str(tmp_path / name)
        assert message(path) == f"no such file or folder: {path} (did you mean 'novel.txt'?)"
    other = str(tmp_path / "quotes.txt")  # shares only its ending with another
    assert message(other) == f"no such file or folder: {other}"


def test_unknown_name_gets_a_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = "the registry has names, names-makemore, shakespeare"
    assert message("shakespear") == (
        "data 'shakespear' is neither a file or folder nor a registry name"
        f" (did you mean 'shakespeare'?); {known}"
    )
    for odd in ("", "qqq", "a\0b"):
        assert message(odd) == (
            f"data {odd!r} is neither a file or folder nor a registry name; {known}"
        )


def test_overlong_name_is_one_clear_line():
    assert message("a" * 5000).startswith("cannot read aaa")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipe_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert message(str(path)) == (
        f"data must be a file or a folder, {path} is neither; copy it to a file"
    )


def test_binary_file_says_where_its_nul_is(tmp_path):
    path = write(tmp_path / "a.bin", b"abc\xff\0")
    assert message(path) == f"{path} is not text: NUL at byte 4; give UTF-8 text"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_invalid_utf8_says_where(tmp_path, mark):
    path = write(tmp_path / "a.txt", mark + "aé".encode() + b"\xe9bc")
    assert message(path) == (
        f"{path} is not UTF-8: byte 0xe9 at byte {len(mark) + 3};"
        " convert it, for example with iconv -f latin1 -t utf-8"
    )


def test_invalid_file_in_a_folder_is_counted(tmp_path):
    write(tmp_path / "a.txt", "fine")
    write(tmp_path / "sub" / "b.txt", b"half\x80")
    corpus = load_corpus(str(tmp_path))
    assert list(corpus.documents) == ["fine"]
    assert corpus.notes == (f"{tmp_path}: skipped 1 file that is not UTF-8",)


def test_folder_without_text_is_refused(tmp_path):
    write(tmp_path / ".hidden", "x")
    assert message(str(tmp_path)) == (
        f"{tmp_path} contains no text that can be read; skipped 1 hidden file"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only on Linux")
def test_file_name_that_is_not_utf8_is_read_and_escaped_in_messages(tmp_path):
    folder = os.fsencode(tmp_path)
    with open(os.path.join(folder, b"a\xff.jsonl"), "w") as file:
        file.write('{"text": "x"}\n')
    assert list(load_corpus(str(tmp_path)).documents) == ["x"]
    with open(os.path.join(folder, b"b\xff.jsonl"), "w") as file:
        file.write("{")
    assert message(str(tmp_path)).startswith(f"{tmp_path}/b\\xff.jsonl line 1 is not JSON: ")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1]", " must be an object, got [1]"),
        ('{"txt": "a"}', f" {COLUMNS}, got txt; {CHOOSE}"),
        ('{"text": 3}', ": text must be a string, got 3; remove the record"),
        ('{"text": ', " is not JSON: Expecting value at column 10; correct or remove the line"),
        (
            '"' + "[" * 9,
            " is not JSON: Unterminated string at column 1; correct or remove the line",
        ),
    ],
)
def test_bad_record_is_named_by_its_line(tmp_path, line, problem):
    path = write(tmp_path / "a.jsonl", '{"text": "ok"}\n\n' + line + "\n")
    assert message(path) == f"{path} line 3{problem}"


def test_record_nested_too_deeply_is_one_clear_line(tmp_path):
    path = write(tmp_path / "a.jsonl", "[" * 100_000)
    assert message(path).startswith(f"{path} line 1 is not JSON: ")


def test_lone_surrogate_in_a_record_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a\\ud800"}')
    assert message(path) == f"{path} line 1: text contains a lone surrogate; replace it"


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Drop root's right to read everything inside the block."""
    if AS_ROOT:
        os.seteuid(65534)
    try:
        yield
    finally:
        if AS_ROOT:
            os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_unreadable_file_and_folder_are_named():
    with TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # pytest's own folders are closed to other users
        path = Path(write(Path(name, "folder", "a.txt"), "x"))
        os.chmod(path, 0)
        os.chmod(path.parent, 0o755)
        with bound_by_permissions():
            assert message(str(path)) == f"cannot read {path}: Permission denied"
        os.chmod(path.parent, 0)
        with bound_by_permissions():
            assert "Permission denied" in message(str(path.parent))


def test_unreadable_file_is_named_even_for_root(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "x")

    def refuse(*words: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert message(str(path)) == f"cannot read {path}: Permission denied"


def test_importing_the_data_floor_imports_nothing_heavy():
    code = (
        "import sys, nanochat.data.dataset, nanochat.data.counts, nanochat.data.style;"
        "nanochat.data.corpus.load_corpus('names');"
        "lazy = 'numba pooch pyarrow torch requests urllib.request html.parser csv lzma bz2 zipfile"
        " xml.etree pypdf docx zstandard tempfile http.client';"
        "print(sorted(set(lazy.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(
    st.lists(st.lists(st.sampled_from(["a", "é", "\r\n", "\r", "\n"]), max_size=9), max_size=3),
    st.integers(1, 4),
)
def test_line_breaks_are_unified_in_parts_of_any_size(texts, size):
    buffer = corpus._Buffer()
    for text in texts:
        buffer.take("".join(text).encode(), True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "CHUNK", size)
        buffer.use_unix_line_breaks()
    assert list(buffer.texts()) == ["".join(text).replace("\r\n", "\n") for text in texts]


def test_a_text_for_which_memory_runs_out_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "x")

    def no_memory(*words: object) -> bool:
        raise MemoryError

    monkeypatch.setattr(corpus, "read_source", no_memory)
    assert message(path) == (
        f"{path} must fit in memory, and memory ran out while it was read; give a part of it, or end"
        " other programs"
    )


def test_a_name_of_any_length_is_shortened_in_its_message(tmp_path):
    long = "x" * 10_000
    for data, rest in (
        (long, "File name too long"),
        (f"http:/{long}", "File name too long"),
        (f"ftp://{long}", "File name too long"),
        (f"http://{long}.invalid/", "cannot download http://xxx"),
        (f"registry:{long}", "the registry has no"),
        (f"{long}\0", "is neither a file or folder nor a registry name"),
    ):
        words = message(data)
        assert rest in words
        assert len(words) < 600
    path = write(tmp_path / "a.txt", "text")
    with pytest.raises(CorpusError) as caught:
        load_corpus(path, separator=long)
    assert len(str(caught.value)) < 600
