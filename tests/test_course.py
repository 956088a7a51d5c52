"""The course: its notebooks hold the outputs of a run, are short, and their links lead on."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nonempty import nonempty

from bench.course.__main__ import COURSE, environment, executed, notebooks, outputs, printed

ROOT = COURSE.parent.parent
NAMES = [path.name for path in notebooks()]
IN_THE_GATE = ("1-counting.ipynb", "2-bigram.ipynb")
MOST_WORDS = 2_000  # prose and code, at 200 words per minute
MOST_BYTES = 300_000
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def read(name: str) -> Any:
    return nbformat.read(COURSE / name, as_version=4)


def prose(name: str) -> str:
    return "\n\n".join(c.source for c in read(name).cells if c.cell_type == "markdown")


def marked(name: str) -> Any:
    return pytest.param(name, marks=[] if name in IN_THE_GATE else pytest.mark.long)


NUMBER = re.compile(r"\d+\.\d+")
UNITS = 2  # of the last digit: a long training in other vector code may round otherwise


def same(held: str, got: str, units: int) -> bool:
    """Return whether two texts differ only in the last digits of their decimals."""
    if NUMBER.split(held) != NUMBER.split(got):
        return False
    pairs = zip(NUMBER.findall(held), NUMBER.findall(got), strict=True)
    return all(
        abs(float(one) - float(other)) <= 1.001 * units * 10.0 ** -len(one.partition(".")[2])
        for one, other in pairs
    )


@pytest.mark.parametrize(
    ("held", "got", "units", "equal"),
    [
        ("loss 2.41", "loss 2.41", 0, True),
        ("loss 2.41", "loss 2.42", 0, False),
        ("loss 2.41, 7", "loss 2.43, 7", 2, True),
        ("loss 2.41, 7", "loss 2.44, 7", 2, False),
        ("loss 2.41, 7", "loss 2.41, 8", 2, False),
    ],
)
def test_only_the_last_digits_may_differ(held: str, got: str, units: int, equal: bool) -> None:
    assert same(held, got, units) is equal


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_a_run_of_the_notebook_prints_what_it_holds(name: str) -> None:
    held, units = printed(read(name)), 0 if name in IN_THE_GATE else UNITS
    for number, (one, other) in enumerate(zip(held, printed(executed(COURSE / name)), strict=True)):
        assert same(one, other, units), f"code cell {number} of {name} prints {other}"
    assert len(nonempty([text for text in held if text])) > 3


def test_the_course_has_seven_notebooks_in_order() -> None:
    assert [name[:2] for name in NAMES] == [f"{number}-" for number in range(1, 8)]


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_is_valid_and_was_run_from_top_to_bottom(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(nonempty(code)) + 1))
    kinds = {output.output_type for output in nonempty(list(outputs(notebook)))}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert {output.get("name", "stdout") for output in outputs(notebook)} == {"stdout"}
    assert set(notebook.metadata) == {"kernelspec"}
    assert [cell.metadata for cell in notebook.cells] == [{}] * len(notebook.cells)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_is_small_and_shows_nothing_of_a_machine(name: str) -> None:
    text = (COURSE / name).read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    shown = json.dumps([dict(output) for output in outputs(read(name))])
    for trace in ("/home/", "/Users/", "/tmp/", str(Path.home()), str(ROOT), "<dc:date>"):
        assert trace not in shown, trace


@pytest.mark.parametrize("name", NAMES)
def test_reading_the_notebook_takes_less_than_ten_minutes(name: str) -> None:
    words = sum(len(cell.source.split()) for cell in read(name).cells)
    assert 500 < words < MOST_WORDS


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_opens_with_its_aim_and_ends_with_exercises_and_a_link(name: str) -> None:
    text = prose(name)
    assert re.match(rf"# {name[0]}\. .+\n\nAt the end of this notebook", text)
    exercises = text.split("\n## Exercises\n")[1]
    assert exercises.index("\n2. ") < exercises.index("<details>\n<summary>Solutions</summary>\n")
    following = [*NAMES, "../your-text.md"][NAMES.index(name) + 1]
    assert f"]({following})" in exercises.split("</details>")[1]


@pytest.mark.parametrize("name", [*NAMES, "index.md"])
def test_every_link_leads_to_a_file(name: str) -> None:
    text = (COURSE / name).read_text(encoding="utf-8") if name.endswith(".md") else prose(name)
    for link in nonempty(LINK.findall(text)):
        assert re.match(r"https://", link) or (COURSE / link).is_file(), link


def test_the_environment_of_the_kernels_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("NCLAB_VERIFY", "1")
    before = dict(os.environ)
    with environment(TMPDIR="/elsewhere"):
        assert os.environ["TMPDIR"] == "/elsewhere"
        assert "NCLAB_VERIFY" not in os.environ
    assert dict(os.environ) == before


def pages() -> Any:
    path = ROOT / "docs" / "notebook_pages.py"
    specification = importlib.util.spec_from_file_location("notebook_pages", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_page_of_the_site_shows_code_and_outputs_in_order() -> None:
    code = {"cell_type": "code", "source": ["print(1)\n", "x"]}
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": "# Title\n\nText."},
            {**code, "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "x", "text/html": "<p>a\n\nb</p>"}},
                {"output_type": "display_data", "data": {"text/plain": "f", "image/svg+xml": ["<svg/>"]}},
                {"output_type": "display_data", "data": {"image/svg+xml": '<svg width="701"/>'}},
                {"output_type": "display_data", "data": {"image/png": "AA==\n"}},
                {"output_type": "execute_result", "data": {"text/plain": ["'x'"]}},
            ]},
            {"cell_type": "markdown", "source": "<details>\n\nMore.\n\n</details>"},
        ]
    }  # fmt: skip
    module, picture = pages(), '<img alt="Figure of the code above" src="data:image/'
    assert module.page_text(notebook, "1.ipynb") == "\n\n".join([
        "# Title", 'This page is the notebook <a href="../1.ipynb" download>1.ipynb</a>.', "Text.",
        "```python\nprint(1)\nx\n```", "```{ .text .no-copy .output }\n1\n```",
        '<div class="output"><p>a  b</p></div>',
        f'<div class="output">{picture}svg+xml;base64,PHN2Zy8+"></div>',
        f'<div class="output wide">{picture}svg+xml;base64,PHN2ZyB3aWR0aD0iNzAxIi8+"></div>',
        f'<div class="output">{picture}png;base64,AA=="></div>',
        "```{ .text .no-copy .output }\n'x'\n```", '<details markdown="1">\n\nMore.\n\n</details>\n',
    ])  # fmt: skip
    assert module.on_page_markdown("[a](b-1.ipynb) [c](d.md)") == "[a](b-1.md) [c](d.md)"


def test_a_warning_fails_the_build_of_the_site_in_the_gate() -> None:
    (build,) = re.findall(r"mkdocs build .*", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert "--strict" in build
    assert "--quiet" not in build  # it hides the warnings from --strict, too
