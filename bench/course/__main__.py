"""The notebooks of docs/course: run them, and write their outputs into them.

    python -m bench.course [NAME …] [--check]

NAME is the beginning of a notebook's name, such as 1; default: all. Each notebook runs in a new
kernel, in an empty folder. --check writes nothing, and exits with status 1 if a notebook prints
another text than the one it holds.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from bench.command import ROOT, command_parser, module_environment

__all__ = ["COURSE", "executed", "notebooks", "printed"]

COURSE = ROOT / "docs" / "course"
FIGURES = Path(__file__).with_name("matplotlibrc")
CELL_S = 300  # before a cell is given up
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
_SVG = "image/svg+xml"
_VERSIONS = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)  # and the date, by matplotlib


def main() -> None:
    arguments = parser().parse_args()
    wrong = []
    for path in notebooks(arguments.names):
        start = time.perf_counter()
        held, done = nbformat.read(path, as_version=4), executed(path)
        print(f"{path.name}: {time.perf_counter() - start:.1f} s")
        if not arguments.check:
            nbformat.write(done, path)
        elif printed(done) != printed(held):
            wrong.append(path.name)
    if wrong:
        sys.exit(f"these print something else than they hold: {', '.join(wrong)}")


def parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--check", action="store_true")
    return parser


def notebooks(names: list[str] | None = None) -> list[Path]:
    """Return the notebooks whose names begin with one of these, in the order of the course."""
    return sorted(p for p in COURSE.glob("*.ipynb") if p.name.startswith(tuple(names or [""])))


def executed(path: Path) -> NotebookNode:
    """Return the notebook with the outputs of a run, and nothing that differs between runs.

    Raises CellExecutionError if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNEL))
    with tempfile.TemporaryDirectory() as folder, environment(TMPDIR=folder):
        NotebookClient(
            notebook, timeout=CELL_S, kernel_name=KERNEL["name"], record_timing=False,
            coalesce_streams=True, resources={"metadata": {"path": folder}},
            extra_arguments=["--InlineBackend.figure_formats=svg"],
        ).execute()  # fmt: skip
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNEL))
    for output in outputs(notebook):
        if _SVG in output.get("data", {}):
            output.data[_SVG] = _VERSIONS.sub("", output.data[_SVG])
    return notebook


def outputs(notebook: NotebookNode) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def printed(notebook: NotebookNode) -> list[str]:
    """Return what each code cell prints and returns as text."""
    return [
        "".join(
            output.get("text") or output.get("data", {}).get("text/plain", "")
            for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Run the kernels that start meanwhile in the checkout's package, with these variables."""
    before = dict(os.environ)
    variables |= {
        "MATPLOTLIBRC": str(FIGURES),
        "OMP_WAIT_POLICY": "PASSIVE",
    }  # torch's idle threads
    os.environ.update(module_environment(**variables))
    os.environ.pop("NCLAB_VERIFY", None)
    try:
        yield
    finally:
        restore(before)


def restore(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


if __name__ == "__main__":
    main()
