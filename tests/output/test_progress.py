"""Evaluations as lines and rows: the figures that were computed, in the width of the terminal."""

from __future__ import annotations

import io
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.output.progress import Lines, Screen, evaluation_line, evaluation_row, row_header
from nanochat.output.terminal import Terminal
from nanochat.training.loop import EvalMetrics

WHOLE = EvalMetrics(
    step=1200, loss=2.34567, bpb=3.45678, train_loss=2.22222, tokens_per_s=1234567.8,
    elapsed_s=5.0, left_s=83.2, is_best=True,
)  # fmt: skip
BARE = EvalMetrics(step=0, loss=None, bpb=None)

numbers = st.none() | st.floats(0, 1e5)
evaluations = st.builds(
    EvalMetrics, step=st.integers(0, 10**6), loss=numbers, bpb=numbers, train_loss=numbers,
    tokens_per_s=st.floats(0, 1e9), left_s=st.none() | st.floats(0, 1e7), is_best=st.booleans(),
)  # fmt: skip


class TerminalText(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Lines that a terminal of some columns gets to see of evaluations."""

    def show(*evaluations, columns=80, steps=2000, sample=None, **options):
        seen = TerminalText()
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stderr", seen)
        with Terminal(**options).progress(steps, 0, sample) as observer:
            for metrics in evaluations:
                observer.evaluated(metrics)
        return seen.getvalue().splitlines()

    return show


def test_a_line_has_every_figure_with_its_unit():
    assert evaluation_line(WHOLE, 2000) == (
        "step 1200/2000  train loss 2.2222  val loss 2.3457  3.4568 bits/byte  1,234,568 tokens/s"
        "  1:23 min left  best"
    )
    assert evaluation_line(BARE, 2000) == "step 0/2000"


def test_a_run_that_a_clock_ends_shows_no_number_of_steps(monkeypatch, capsys):
    seen = TerminalText()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(Screen, "AFTER_S", 0.0)
    with Terminal().progress(604, 0, time_left_s=iter([10.0, 3.0]).__next__) as observer:
        observer.stepped(612, 2.0, 100.0)
        observer.evaluated(WHOLE)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.getvalue())
    assert "604" not in plain
    assert re.search(r"step 612  loss 2.0000 .*100 tokens/s  3 s left", plain)
    lines = [line.split() for line in plain.replace("\r", "\n").splitlines()]
    assert ["1200", "2.2222", "2.3457", "3.4568", "1,234,568", "1:23", "min", "best"] in lines
    monkeypatch.undo()
    with Terminal().progress(604, 0, time_left_s=lambda: 3.0) as observer:
        observer.evaluated(WHOLE)
    assert capsys.readouterr().err == evaluation_line(WHOLE, None) + "\n"
    assert evaluation_line(WHOLE, None).startswith("step 1200  train loss 2.2222  ")


def test_a_row_has_every_figure_under_the_name_of_its_column(terminal):
    header, row, bare = terminal(WHOLE, BARE)
    assert header.split() == [
        "step",
        "train",
        "loss",
        "val",
        "loss",
        "bits/byte",
        "tokens/s",
        "left",
    ]
    assert row.split() == [
        "1200/2000", "2.2222", "2.3457", "3.4568", "1,234,568", "1:23", "min", "best",
    ]  # fmt: skip
    assert bare.split() == ["0/2000", "-", "-", "-", "-", "-"]
    for name, text in (
        ("step", "1200/2000"),
        ("train loss", "2.2222"),
        ("val loss", "2.3457"),
        ("bits/byte", "3.4568"),
        ("tokens/s", "1,234,568"),
        ("left", "1:23 min"),
    ):
        assert header.index(name) + len(name) == row.index(text) + len(text)
    assert len(row) <= 80


@settings(deadline=None)
@given(evaluations)
def test_a_terminal_shows_no_less_than_a_pipe(metrics):
    row, line = evaluation_row(metrics, 10**6), evaluation_line(metrics, 10**6)
    for field in re.findall(r"\S*\d\S*", line):
        assert field in row.split()
    assert row.endswith("best") == line.endswith("best") == metrics.is_best


@pytest.mark.parametrize("columns", [1, 10, 20, 40, 59, 69, 70, 71, 72, 80, 200, 0])
def test_no_line_is_wider_than_the_terminal_if_a_figure_fits(terminal, columns):
    lines = terminal(WHOLE, BARE, columns=columns, sample=lambda width: "x" * 500)
    text = " ".join(lines)
    for figure in ("1200/2000", "2.2222", "2.3457", "3.4568", "1,234,568", "1:23 min", "best"):
        assert figure in text
    longest = len("  1,234,568 tokens/s")
    assert max(map(len, lines)) <= max(columns or 80, longest)


def test_a_sample_is_one_line_under_its_evaluation(terminal):
    texts = iter(["first\nline\x1b[2J", "", "日" * 99])
    lines = terminal(BARE, BARE, BARE, columns=40, sample=lambda columns: next(texts))
    assert lines == [
        "step 0/2000", "  > first line\\x1b[2J", "step 0/2000", "step 0/2000", "  > " + "日" * 16 + "...",
    ]  # fmt: skip


def test_a_sample_is_asked_for_the_columns_that_are_free(terminal):
    asked = []
    terminal(BARE, columns=60, sample=lambda columns: asked.append(columns) or "")
    assert asked == [56]


@pytest.mark.parametrize(
    "options",
    [{"quiet": True}, {"as_json": True}, {"silent": True}, {"quiet": True, "as_json": True}],
)
def test_quiet_and_json_draw_no_sample(terminal, options):
    def never(columns):
        raise AssertionError("a sample was drawn")

    lines = terminal(WHOLE, sample=never, **options)
    assert bool(lines) == (options == {"as_json": True})


def test_a_pipe_gets_a_line_for_each_evaluation_and_no_sample(capsys):
    with Terminal().progress(2000, 0, lambda columns: "sample") as observer:
        assert isinstance(observer, Lines)
        observer.stepped(1, 2.0, 100.0)
        observer.evaluated(WHOLE)
    assert capsys.readouterr() == ("", evaluation_line(WHOLE, 2000) + "\n")


def test_a_note_during_a_run_is_above_the_bar(monkeypatch):
    seen = TerminalText()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(Screen, "AFTER_S", 0.0)
    terminal = Terminal()
    with terminal.progress(10, 0) as observer:
        observer.stepped(1, 2.0, 100.0)
        terminal.note("a note [bold]with brackets[/bold] :smile:")
        terminal.warn("a warning")
        observer.evaluated(WHOLE)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.getvalue())
    lines = [line.strip() for line in plain.replace("\r", "\n").splitlines()]
    assert "a note [bold]with brackets[/bold] :smile:" in lines
    assert "warning: a warning" in lines
    assert row_header(10).strip() in lines


@pytest.mark.parametrize(
    "variables",
    [{"TERM": "dumb"}, {"NO_COLOR": "1", "TERM": "xterm"}, {"COLUMNS": "0"}, {"COLUMNS": "1"},
     {"COLUMNS": "7"}, {"COLUMNS": "²"}, {"COLUMNS": "999999999"}, {"TERM": ""}],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_bar_breaks_on_no_kind_of_terminal(monkeypatch, variables, encoding):
    class Strict(TerminalText):
        def write(self, text):
            text.encode(encoding, "backslashreplace" if "日" in text else "strict")
            return super().write(text)

    seen = Strict()
    Strict.encoding = encoding
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(Screen, "AFTER_S", 0.0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Terminal().progress(2000, 0, lambda columns: "日本") as observer:
        for step in range(3):
            observer.stepped(step, 2.0, 1e6)
            observer.evaluated(WHOLE)
    assert seen.getvalue().count("2.3457") == 3
    if "NO_COLOR" in variables:
        assert not re.search(r"\x1b\[[0-9;]*3\d", seen.getvalue())
