"""Notes while a text is read: when they come, what they say, and that an interrupt is one line."""

from __future__ import annotations

import io
import itertools
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.commands import train as commands_train
from nanochat.data.corpus import load_corpus
from nanochat.data.sources import fetching
from nanochat.data.sources.progress import EVERY_S, FIRST_S, Progress, telling
from nanochat.system.wording import amount


def ticking(step_s: float):
    """A clock that is `step_s` later at each look."""
    return (n * step_s for n in itertools.count()).__next__


@pytest.fixture
def books(tmp_path):
    """A folder of three folders with ten files of 1,000 bytes each."""
    for number in range(30):
        file = tmp_path / f"shelf{number % 3}" / f"{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text("x" * 999 + "\n")
    return str(tmp_path)


def test_each_stage_of_a_folder_says_how_much_is_done(books):
    notes = []
    with telling(notes.append, ticking(EVERY_S)):  # every look is due
        load_corpus(books)
    found, looked, read = notes[:4], notes[4:34], notes[34:]
    # The folder itself and its three folders are listed, one after the other.
    assert found == [f"{books}: found {count} files so far" for count in (0, 0, 10, 20)]
    assert looked == [f"{books}: looked at {n} of 30 files so far" for n in range(30)]
    begun = [n for n in read if " 0 of 30 files" not in n]
    assert read[0] == f"{books}: read 0 of 30 files so far, 0 bytes"
    assert begun == [f"{books}: read {n} of 30 files so far, {n} kB" for n in range(1, 30)]


def test_a_large_file_says_how_much_is_read_and_a_reading_without_a_listener_is_silent(tmp_path):
    path = tmp_path / "large.txt"
    path.write_bytes(b"0123456\n" * (10_000_000 // 8))
    notes = []
    with telling(notes.append, ticking(FIRST_S)):
        documents = load_corpus(str(path), "file").documents
    assert list(documents) == list(load_corpus(str(path), "file").documents)
    amounts = [float(n.split("read ")[1].split(" MB")[0]) for n in notes if "MB" in n]
    assert amounts == sorted(amounts)
    assert all(n.startswith(f"{path}: read ") and n.endswith(" so far") for n in notes)
    assert 0 < len(notes) < 10  # at most one per chunk, ten seconds apart


def test_standard_input_says_how_much_has_arrived(monkeypatch):
    fetching.forget()
    raw = io.BytesIO(b"word\n" * 500_000)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=raw, isatty=lambda: False))
    raw.isatty = lambda: False
    notes = []
    with telling(notes.append, ticking(EVERY_S)):
        load_corpus("-", "line")
    fetching.forget()
    received = [n for n in notes if "received" in n]
    assert received == [
        f"standard input: received {amount(size)} so far" for size in (1 << 20, 2 << 20, 2_500_000)
    ]


@given(st.lists(st.floats(0, 30), max_size=60))
def test_notes_are_a_second_after_the_start_and_then_ten_seconds_apart(waits):
    now = [0.0]
    progress = Progress(print, lambda: now[0])
    told = []
    for wait in waits:
        now[0] += wait
        if progress.is_due():
            told.append(now[0])
    assert all(at >= FIRST_S for at in told)
    assert all(b - a >= EVERY_S for a, b in itertools.pairwise(told))
    assert bool(told) == (now[0] >= FIRST_S)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1 kB"), (53_200, "53 kB"),
     (999_499, "999 kB"), (999_600, "1.0 MB"), (2_340_000_000, "2,340.0 MB")],
)  # fmt: skip
def test_an_amount_has_a_unit_of_its_size(size, text):
    assert amount(size) == text


@pytest.mark.parametrize("quiet", [False, True])
def test_the_command_line_shows_the_notes_unless_it_is_quiet(
    books, cli, tmp_path, monkeypatch, quiet
):
    monkeypatch.setattr(commands_train, "telling", lambda tell: telling(tell, ticking(EVERY_S)))
    words = ["--mode=scalar", "--steps=0", "--num-samples=0", "--no-baseline"]
    words += ["--preset=microgpt", "--n-embd=4", f"--out={tmp_path}-run"]
    result = cli("train", books, *words, *["--quiet"] * quiet)
    assert result.code == 0, result.err
    assert (f"{books}: read 29 of 30 files so far, 29 kB" in result.err) == (not quiet)


def test_an_interrupt_while_a_text_is_read_is_one_line(tmp_path):
    command = [sys.executable, "-m", "nanochat", "train", "-"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=tmp_path,
        # A background job of a shell, in which these tests may run, ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdin is not None
    # The pipe holds less than this, so the write ends when the command reads it.
    process.stdin.write(b"a line of text\n" * 20_000)
    process.stdin.flush()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (b"", b"interrupted\n", 130)
    assert not list(tmp_path.iterdir())
