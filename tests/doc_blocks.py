"""Runs the examples of a documentation page.

The convention, for every page and the README:

- Each ```python block runs by itself. If a ```text block follows with nothing between them, it is
  what the block prints.
- In ```console blocks each line that starts with `$ nanochat` is a command and must exit with 0.
  The lines below it, up to the next `$`, are its output: stderr and stdout as a terminal shows
  them. A command without output lines must print something.
- `…` in an output matches any text, also several lines.
- The comment `<!-- output depends on the machine -->` before a block means: run it, and check only
  that it succeeds and prints something.
- All blocks of a page run in the page's order in one folder.
- The comment `<!-- not run: REASON -->` before a block says why it is not run. Every block is run,
  the output of one that is run, or has such a reason.
- The comment `<!-- blocks checked by tests/….py -->` anywhere in a page means: that test runs the
  page's Python blocks and compares its listings.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

VARIES = "<!-- output depends on the machine -->"
_NOT_RUN = re.compile(r"<!-- not run: .+ -->$")
_CHECKED_BY = re.compile(r"<!-- blocks checked by (tests/[\w/]+\.py) -->")
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """A command or Python block, with the output that the page shows."""

    language: str  # python or console
    code: str
    output: str  # empty: the page shows none
    varies: bool
    line: int


def examples(text: str) -> list[Example]:
    """Return the examples of a page in their order."""
    found: list[Example] = []
    fences = list(_FENCE.finditer(text))
    for number, fence in enumerate(fences):
        language, body = fence[1], fence[2]
        line = text.count("\n", 0, fence.start()) + 1
        before = text[fences[number - 1].end() if number else 0 : fence.start()]
        varies = before.rstrip().endswith(VARIES)
        if language == "python":
            after = fences[number + 1] if number + 1 < len(fences) else None
            follows = after is not None and after[1] == "text"
            shown = follows and not text[fence.end() : after.start()].strip()
            found.append(Example("python", body, after[2] if shown else "", varies, line))
        elif language == "console":
            found += [
                Example("console", code, output, varies, line + offset)
                for code, output, offset in _commands(body)
            ]
    return found


def checked_by(text: str) -> str | None:
    """Return the test that runs the page's blocks itself, if there is one."""
    found = _CHECKED_BY.search(text)
    return found[1] if found else None


def unexplained(text: str) -> list[int]:
    """Return the lines of blocks that are neither run nor have a reason why they are not."""
    covered = {"python", "", "c"} if checked_by(text) else {"python", "console"}
    lines = []
    previous: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        before = text[previous.end() if previous else 0 : fence.start()].strip()
        is_output = fence[1] == "text" and previous is not None and not before
        if fence[1] not in covered and not is_output and not _NOT_RUN.search(before):
            lines.append(text.count("\n", 0, fence.start()) + 1)
        previous = fence
    return lines


def _commands(body: str) -> list[tuple[str, str, int]]:
    """Return command, output and line offset of each `$ nanochat …` of a console block."""
    found: list[tuple[str, str, int]] = []
    lines = iter(enumerate(body.splitlines(), start=1))
    for offset, line in lines:
        if line.startswith("$ "):
            while line.endswith("\\"):
                line = line[:-1] + next(lines)[1]
            found.append((line[2:], "", offset))
        elif found:
            code, output, start = found[-1]
            found[-1] = code, output + line + "\n", start
    return [command for command in found if command[0].startswith("nanochat")]


def run_page(page: Path, folder: Path) -> int:
    """Run all examples of the page in the folder; return their number.

    Raises AssertionError that names the line of an example that fails or prints something else.
    """
    found = examples(page.read_text(encoding="utf-8"))
    here = Path.cwd()
    os.chdir(folder)
    try:
        for example in found:
            _check(example, f"{page.name}:{example.line}")
    finally:
        os.chdir(here)
    return len(found)


def _check(example: Example, place: str) -> None:
    printed = _run(example, place)
    if example.varies or (example.language == "console" and not example.output):
        assert printed.strip(), f"{place} prints nothing"
    elif example.output:
        assert matches(example.output, printed), (
            f"{place} prints\n{printed}\nbut the page shows\n{example.output}"
        )


def _run(example: Example, place: str) -> str:
    """Return what the example prints, stdout and stderr in their order."""
    from nanochat.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        if example.language == "python":
            exec(compile(example.code, place, "exec"), {"__name__": "__main__"})
        else:
            code = main(shlex.split(example.code)[1:])
            assert code == 0, f"{place}: {example.code} exits with {code}: {printed.getvalue()}"
    return printed.getvalue()


def matches(shown: str, printed: str) -> bool:
    """Return whether the printed text is what a page shows; `…` stands for any text."""
    parts = [re.escape(part) for part in _stripped(shown).split("…")]
    return re.fullmatch(".*".join(parts), _stripped(printed), re.DOTALL) is not None


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
