"""Imports from a checkout: its Python files with the compiled files of the installed package.

`python -m nanochat`, `python -m pytest` and `torchrun -m nanochat` put the current folder first on
the import path, and in a checkout that folder holds `nanochat/` without its compiled files.
"""

from __future__ import annotations

import filecmp
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from nanochat.system.streams import write_progress

__all__ = ["borrow_compiled_files"]


def borrow_compiled_files(package_path: list[str]) -> None:
    """Append the folder of the installed package to the path of the checkout's package.

    Prints one line to stderr if the Python files differ from the installed ones: the checkout's
    files run. Does nothing in an editable install, which finds its compiled files itself. Raises
    ImportError if nanochat is not installed.
    """
    if find_spec("nanochat._scalar") is not None:
        return
    checkout = Path(package_path[0])
    installed = _installed_package(checkout)
    if installed is None:
        message = (
            f"nanochat is not installed for this Python, and {checkout} has no compiled files;"
            f" run `pip install .` in {checkout.parent}"
        )
        if sys.argv[:1] == ["-m"]:  # python -m nanochat
            write_progress(f"error: {message}")
            raise SystemExit(2)
        raise ImportError(message)
    package_path.append(str(installed))
    if _is_first_process() and (different := _different_files(checkout, installed)):
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        write_progress(
            f"note: running the Python files of {checkout}, which differ from the installed ones"
            f" ({different[0]}{more}), with the compiled files of {installed}"
        )


def _installed_package(checkout: Path) -> Path | None:
    """Return the folder of another nanochat package on the import path that has compiled files."""
    for folder in sys.path:
        package = Path(folder or os.curdir, "nanochat").absolute()
        if package.resolve() == checkout.resolve():
            continue
        if PathFinder.find_spec("nanochat._scalar", [str(package)]) is not None:
            return package
    return None


def _is_first_process() -> bool:
    """Whether neither torchrun nor multiprocessing has made several processes, of which the first
    prints the note."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    is_child = multiprocessing is not None and multiprocessing.parent_process() is not None
    return not is_child and os.environ.get("RANK", "0") == "0"


def _different_files(checkout: Path, installed: Path) -> list[str]:
    """Return the Python files that only one side has or whose contents differ, relative to the
    package."""
    ours, theirs = ({str(p.relative_to(root)) for p in root.rglob("*.py")}
                    for root in (checkout, installed))  # fmt: skip
    equal, _, _ = filecmp.cmpfiles(checkout, installed, ours & theirs, shallow=False)
    return sorted((ours | theirs) - set(equal))
