"""Odd texts, files and paths: each ends in success or in one line that names it, within bounds of
memory and time, and without a character that a terminal would obey."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import socket
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conftest import TEXT
from faults.commands import Commands, Done

TINY = ("--mode=scalar", "--preset=pico", "--n-embd=4", "--n-head=2", "--n-layer=1", "--steps=2",
        "--eval-tokens=60", "--num-samples=1", "--max-new-tokens=4", "--quiet")  # fmt: skip
LINES = TEXT * 4
MOST_S = 60.0


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parquet(columns: Mapping[str, list[object]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), buffer)
    return buffer.getvalue()


# Name of the file → its content
TEXTS: Mapping[str, Callable[[], bytes]] = {
    "odd-empty.txt": lambda: b"",
    "odd-newlines.txt": lambda: b"\n" * 1000,
    "odd-blanks.txt": lambda: b" " * 10_000 + b"\t" * 1000,
    "odd-crlf.txt": lambda: LINES.replace("\n", "\r\n").encode(),
    "odd-cr.txt": lambda: LINES.replace("\n", "\r").encode(),
    "odd-bom.txt": lambda: b"\xef\xbb\xbf" + LINES.encode(),
    "odd-only-bom.txt": lambda: b"\xef\xbb\xbf",
    "odd-utf-16.txt": lambda: LINES.encode("utf-16"),
    "odd-utf-16-le.txt": lambda: LINES.encode("utf-16-le"),
    "odd-utf-32.txt": lambda: LINES.encode("utf-32"),
    "odd-latin-1.txt": lambda: ("é" * 30 + LINES).encode("latin-1"),
    "odd-nul.txt": lambda: LINES.encode() + b"a\0b\n" + LINES.encode(),
    "odd-surrogates.txt": lambda: b"\xed\xa0\x80\xed\xb0\x80" + LINES.encode(),
    "odd-overlong.txt": lambda: b"\xc0\xaf\xe0\x80\xaf" + LINES.encode(),
    "odd-beyond.txt": lambda: b"\xf4\x90\x80\x80" + LINES.encode(),
    "odd-cut.txt": lambda: LINES.encode() + "😀".encode()[:2],
    "odd-separators.txt": lambda: LINES.replace("\n", "\u2028").encode() + "\u2029\x85\n".encode(),
    "odd-combining.txt": lambda: ("a" + "\u0301" * 500 + "\n" + LINES).encode(),
    "odd-rtl.txt": lambda: ("\u202eשלום\u2066עולם\u200f\n" * 20 + LINES).encode(),
    "odd-zero-width.txt": lambda: ("\u200b\u200d\ufeff\n" * 40).encode(),
    "odd-noncharacters.txt": lambda: ("\uffff\ufffe\U0010ffff\ue000\n" * 20 + LINES).encode(),
    "odd-escapes.txt": lambda: b"\x1b[2J\x1b]0;x\x07\x08\n" * 20 + LINES.encode(),
    "odd-one-character.txt": lambda: b"a",
    "odd-one-letter.txt": lambda: b"a" * 5000,
    "odd-one-line.txt": lambda: LINES.replace("\n", " ").encode() * 50,
    "odd-no-last-newline.txt": lambda: LINES.rstrip("\n").encode(),
    "odd-many-characters.txt": lambda: "".join(map(chr, range(0x4E00, 0x5200))).encode(),
    "odd-random.txt": lambda: random.Random(0).randbytes(5000),
    "odd-json.jsonl": lambda: b'{"text": "anna"\n{"text": \n' * 10,
    "odd-values.jsonl": lambda: b'1\nnull\n[]\n"x"\nNaN\n{}\n{"text": 1}\n' * 5,
    "odd-depth.jsonl": lambda: b'{"text": ' + b"[" * 50_000 + b"\n",
    "odd-twice.jsonl": lambda: b'{"text": "anna", "text": "bob"}\n' * 20,
    "odd-surrogate.jsonl": lambda: b'{"text": "a\\ud800b"}\n' * 20,
    "odd-bom.jsonl": lambda: b'\xef\xbb\xbf{"text": "anna bob"}\n' * 20,
    "odd-quotes.csv": lambda: b'text\n"anna\nbob,"" c\n' * 20,
    "odd-no-column.csv": lambda: b"a,b\n1,2\n" * 20,
    "odd-plain.gz": lambda: LINES.encode(),
    "odd-empty.gz": lambda: b"",
    "odd-cut.txt.gz": lambda: gzipped(LINES.encode())[:-9],
    "odd-changed.txt.gz": lambda: gzipped(LINES.encode())[:-8] + bytes(8),
    "odd-twice.txt.gz": lambda: gzipped(gzipped(LINES.encode())),
    "odd-members.txt.gz": lambda: gzipped(LINES.encode()) * 2,
    "odd-zeros.txt.gz": lambda: gzipped(bytes(50_000_000)),
    "odd-expanding.txt.gz": lambda: gzipped(b"a" * 1_000_000),
    "odd-text.zip": lambda: zipped({"a.txt": LINES.encode(), "../b.txt": LINES.encode()}),
    "odd-empty.zip": lambda: zipped({}),
    "odd-text.parquet": lambda: LINES.encode(),
    "odd-empty.parquet": lambda: b"",
    "odd-cut.parquet": lambda: parquet({"text": ["anna", "bob"] * 20})[:-5],
    "odd-no-text.parquet": lambda: parquet({"number": [1, 2, 3]}),
    "odd-nulls.parquet": lambda: parquet({"text": [None, "anna", None] * 20}),
    "odd-bytes.parquet": lambda: parquet({"text": [b"\xff\xfe", b"anna"] * 20}),
}


def name_of(name: bytes | str) -> Callable[[Path], str]:
    """Write an ordinary text under this name."""

    def make(folder: Path) -> str:
        path = folder / os.fsdecode(name)
        path.write_text(LINES, encoding="utf-8")
        return os.fsdecode(name)

    return make


def deep(folder: Path) -> str:
    path = Path(*["odd-" + "d" * 100] * 30)
    (folder / path).mkdir(parents=True)
    (folder / path / "a.txt").write_text(LINES, encoding="utf-8")
    return str(path)


def link(target: str, *, made: str = "") -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        if made:
            (folder / made).write_text(LINES, encoding="utf-8")
        (folder / "odd-link").symlink_to(target)
        return "odd-link"

    return make


def looping_folder(folder: Path) -> str:
    (folder / "odd-loop").mkdir()
    (folder / "odd-loop/a.txt").write_text(LINES, encoding="utf-8")
    (folder / "odd-loop/again").symlink_to(".")
    return "odd-loop"


def fifo(folder: Path) -> str:
    os.mkfifo(folder / "odd-fifo")
    return "odd-fifo"


def odd_folder(folder: Path) -> str:
    """A folder with one text among what is none."""
    (folder / "odd-folder/below/empty").mkdir(parents=True)
    os.mkfifo(folder / "odd-folder/fifo.txt")
    (folder / "odd-folder/gone.txt").symlink_to("nowhere")
    (folder / "odd-folder/.hidden.txt").write_text("hidden", encoding="utf-8")
    (folder / "odd-folder/binary.txt").write_bytes(bytes(range(256)))
    (folder / "odd-folder/below/a.txt").write_text(LINES, encoding="utf-8")
    return "odd-folder"


def folder_of(*names: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "odd-folder").mkdir()
        for name in names:
            (folder / "odd-folder" / name).mkdir(parents=True)
        return "odd-folder"

    return make


def bound_socket(folder: Path) -> str:
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(folder)  # the whole path may be too long for a socket
        try:
            made.bind("odd-socket")
        finally:
            os.chdir(here)
    return "odd-socket"


def unreadable(folder: Path) -> str:
    name_of("odd-unreadable.txt")(folder)
    (folder / "odd-unreadable.txt").chmod(0)
    return "odd-unreadable.txt"


# What → makes it in a folder and returns the value of --data
PATHS: Mapping[str, Callable[[Path], str]] = {
    "space": name_of("odd name.txt"),
    "quotes": name_of("odd'\"`$(x).txt"),
    "newline": name_of("odd\nname.txt"),
    "tab and escape": name_of("odd\t\x1b[31m.txt"),
    "bytes": name_of(b"odd-\xff\xfe.txt"),
    "dash": name_of("-odd.txt"),
    "emoji": name_of("odd-😀.txt"),
    "right to left": name_of("odd-\u202etxt.exe"),
    "255 bytes": name_of("odd-" + "x" * 247 + ".txt"),
    "256 bytes": lambda folder: "odd-" + "x" * 252,
    "glob": name_of("odd-[a]*?.txt"),
    "comma": name_of("odd-a,b.txt"),
    "colon": name_of("odd:a.txt"),
    "percent and hash": name_of("odd-%2e#x?.txt"),
    "backslash": name_of("odd\\name.txt"),
    "no suffix": name_of("odd"),
    "a suffix of another kind": name_of("odd.py.bak"),
    "deep path": deep,
    "nothing": lambda folder: "odd-nothing.txt",
    "below a file": lambda folder: name_of("odd.txt")(folder) + "/x.txt",
    "too long": lambda folder: "odd/" * 2000,
    "dots": lambda folder: "./" + name_of("odd.txt")(folder) + "/../odd.txt",
    "link": link("target.txt", made="target.txt"),
    "broken link": link("nowhere"),
    "loop of links": link("odd-link"),
    "folder with a loop": looping_folder,
    "FIFO": fifo,
    "socket": bound_socket,
    "unreadable": unreadable,
    "zero": lambda folder: "/dev/zero",
    "full": lambda folder: "/dev/full",
    "null": lambda folder: "/dev/null",
    "a file without a size": lambda folder: "/proc/self/status",
    "memory": lambda folder: "/proc/self/mem",
    "empty folder": folder_of(),
    "folder of folders": folder_of("a/b/c", "d"),
    "folder of odd files": odd_folder,
}


class Inputs:
    """A sound run, and the commands on odd inputs."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self.commands, self.folder = commands, folder
        self.words: tuple[str, ...] = ()  # of all commands that train
        (folder / "names.txt").write_text(LINES, encoding="utf-8")
        done = self.train("names.txt")
        assert done.code == 0, done
        shutil.move(folder / "run", folder / "sound")
        self.peak_bytes = done.peak_bytes

    def train(self, data: str, *words: str, **request: object) -> Done:
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        return self.commands.run(
            "train", f"--data={data}", *TINY, *self.words, *words, "--out=run", cwd=self.folder,
            **{"timeout_s": MOST_S, **request},
        )  # fmt: skip

    def evaluate(self, data: str) -> Done:
        return self.commands.run(
            "eval", "sound", f"--data={data}", "--quiet", cwd=self.folder, timeout_s=MOST_S
        )

    def complaints(self, data: str, most_more_bytes: int = 256 << 20) -> list[str]:
        """Return what is wrong with the answers of both commands; empty if nothing is."""
        found = []
        for command, done in (("train", self.train(data)), ("eval", self.evaluate(data))):
            texts = [done.complaint()]
            named = "odd" in done.err or data in done.err
            if done.code and not named:
                texts.append(f"it does not name the input: {done.err[-300:]!r}")
            if not all(c.isprintable() or c == "\n" for c in done.err):
                texts.append(f"control characters: {done.err[-300:]!r}")
            if max(map(len, done.err.splitlines()), default=0) > 1500:
                texts.append(f"a line of {len(done.err)} characters: {done.err[:200]!r}")
            if done.peak_bytes > self.peak_bytes + most_more_bytes:
                texts.append(f"{done.peak_bytes >> 20} MB, {self.peak_bytes >> 20} MB on names")
            found += [f"{command}: {text}" for text in texts if text]
        return found


@pytest.fixture
def inputs(commands: Commands, tmp_path: Path) -> Inputs:
    return Inputs(commands, tmp_path)


def odd_texts(inputs: Inputs) -> dict[str, list[str]]:
    found = {}
    for name, content in TEXTS.items():
        (inputs.folder / name).write_bytes(content())
        found[name] = inputs.complaints(name)
        (inputs.folder / name).unlink()
    return {name: texts for name, texts in found.items() if texts}


def odd_paths(inputs: Inputs) -> dict[str, list[str]]:
    found = {}
    for what, make in PATHS.items():
        below = inputs.folder / "below"
        below.mkdir()
        data = make(below)
        for name in os.listdir(os.fsencode(below)):  # next to the run, as in a user's folder
            os.rename(os.fsencode(below) + b"/" + name, os.fsencode(inputs.folder) + b"/" + name)
        found[what] = inputs.complaints(data)
        for entry in list(inputs.folder.iterdir()):
            if entry.name not in ("names.txt", "sound"):
                shutil.rmtree(
                    entry
                ) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return {what: texts for what, texts in found.items() if texts}


def test_each_odd_text_is_trained_on_or_refused_by_name(inputs: Inputs) -> None:
    assert odd_texts(inputs) == {}


def test_each_odd_path_is_trained_on_or_refused_by_name(inputs: Inputs) -> None:
    assert odd_paths(inputs) == {}


# -------------------------------------------------------------------------------- large and changing

# A character takes one byte in the text and the tokens, and more in the counts of the baseline.
BYTES_PER_CHARACTER, MORE_BYTES = 20, 128 << 20


def large(inputs: Inputs, sparse: int, line: int, most_s: float) -> list[str]:
    """Return what is wrong with a sparse file and with one long line, of these sizes in bytes."""
    path, found = inputs.folder / "odd.txt", []
    for start in (b"", LINES.encode()):
        with open(path, "wb") as file:
            file.write(start)
            file.truncate(sparse)
        expected = f"error: odd.txt is not text: NUL at byte {len(start)}; give UTF-8 text\n"
        for done in (inputs.train("odd.txt"), inputs.evaluate("odd.txt")):
            if (done.code, done.err) != (2, expected):
                found.append(f"sparse file: {done.code} {done.err[-300:]}")
            if done.peak_bytes > inputs.peak_bytes + MORE_BYTES or done.seconds > most_s:
                found.append(f"sparse file: {done.peak_bytes >> 20} MB, {done.seconds:.0f} s")
    piece = LINES.replace("\n", "").encode() * 1000
    with open(path, "wb") as file:
        for _ in range(line // len(piece)):
            file.write(piece)
    done = inputs.train("odd.txt", timeout_s=most_s)
    if done.code != 0:
        found.append(f"line: {done.code} {done.err[-300:]}")
    if done.peak_bytes > inputs.peak_bytes + MORE_BYTES + BYTES_PER_CHARACTER * line:
        found.append(f"line: {done.peak_bytes >> 20} MB")
    path.unlink()
    return found


def test_a_large_sparse_file_and_a_long_line_take_bounded_memory_and_time(inputs: Inputs) -> None:
    assert large(inputs, 100 << 20, 3 << 20, 60.0) == []


@pytest.mark.long
def test_a_huge_sparse_file_and_a_huge_line_take_bounded_memory_and_time(
    inputs: Inputs, tried: Callable[..., None]
) -> None:
    assert large(inputs, 10 << 30, 1 << 30, 1800.0) == []
    tried(files=3)


# What happens to the file before one of the reads of it
CHANGES = {
    "grows": "cat more.txt >> odd.txt",
    "shrinks": "truncate -s 1000 odd.txt",
    "is emptied": "truncate -s 0 odd.txt",
    "is replaced": "mv more.txt odd.txt",
    "is removed": "rm odd.txt",
    "becomes binary": "truncate -s 0 odd.txt && truncate -s 3000000 odd.txt",
}  # fmt: skip


def changing(inputs: Inputs, change: str, stride: int) -> tuple[list[str], int]:
    """Return what is wrong when the file changes before its calls, and how many there are."""
    path, log = inputs.folder / "odd.txt", inputs.folder / "calls"
    fault = {"below": str(path), "kinds": "all", "error": 0}

    def write() -> None:
        path.unlink(missing_ok=True)
        path.write_text(LINES * 12_000, encoding="utf-8")  # larger than the buffers that read it
        (inputs.folder / "more.txt").write_text("zoe\n" * 100_000, encoding="utf-8")

    write()
    done = inputs.train(str(path), "--no-baseline", fault={**fault, "at": 0, "log": str(log)})
    assert done.code == 0, done
    calls = log.read_text(encoding="utf-8").splitlines()
    assert len(calls) > 3, calls
    found = []
    for at in range(1, len(calls) + 1, stride):
        write()
        armed = {**fault, "at": at, "action": CHANGES[change]}
        done = inputs.train(str(path), "--no-baseline", fault=armed)
        texts = [done.complaint()]
        if done.code and "odd.txt" not in done.err:
            texts.append(f"it does not name the file: {done.err[-300:]!r}")
        if done.peak_bytes > inputs.peak_bytes + MORE_BYTES:
            texts.append(f"{done.peak_bytes >> 20} MB")
        found += [f"{change} before call {at}, {calls[at - 1]}: {text}" for text in texts if text]
    return found, len(calls)


@pytest.mark.parametrize("change", ["shrinks", "is replaced"])
def test_a_file_that_changes_while_it_is_read_is_read_or_refused(
    inputs: Inputs, change: str
) -> None:
    assert changing(inputs, change, 3)[0] == []


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_at_any_moment_is_read_or_refused(
    inputs: Inputs, change: str, tried: Callable[..., None]
) -> None:
    found, number = changing(inputs, change, 1)
    assert found == []
    tried(moments=number)


@pytest.mark.long
def test_odd_texts_and_paths_are_trained_on_or_refused_by_name(
    inputs: Inputs, tried: Callable[..., None]
) -> None:
    """The table again, with the tokenizers that know all bytes."""
    for words in (("--tokenizer=byte",), ("--tokenizer=bpe", "--vocab-size=300")):
        inputs.words = words
        assert (odd_texts(inputs), odd_paths(inputs)) == ({}, {}), words
        tried(inputs=len(TEXTS) + len(PATHS))
