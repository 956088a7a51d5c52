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

__all__ = ["borrow_compiled_files"]


def borrow_compiled_files(package_path: list[str]) -> None:
    """Append the folder of the installed package to the path of the checkout's package.

    Prints one line to stderr if the Python files differ from the installed ones: the checkout's
    run. Does nothing in an editable install, which finds its compiled files itself. Raises
    ImportError if nanochat is not installed.
    """
    if find_spec("nanochat._scalar") is not None:
        return
    checkout = Path(package_path[0])
    installed = _installed_package(checkout)
    if installed is None:
        message = (
            f"nanochat is not installed, and {checkout} has no compiled files:"
            f" run `pip install .` in {checkout.parent}"
        )
        if sys.argv[:1] == ["-m"]:  # python -m nanochat
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(message)
    package_path.append(str(installed))
    if different := _different_files(checkout, installed):
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        print(
            f"note: running the Python files of {checkout}, which differ from the installed ones"
            f" ({different[0]}{more}), with the compiled files of {installed}",
            file=sys.stderr,
        )


def _installed_package(checkout: Path) -> Path | None:
    """The folder of another nanochat package on the import path that has compiled files."""
    for folder in sys.path:
        if Path(folder or os.curdir, "nanochat").resolve() == checkout.resolve():
            continue
        package = Path(folder or os.curdir, "nanochat")
        if PathFinder.find_spec("nanochat._scalar", [str(package)]) is not None:
            return package.absolute()
    return None


def _different_files(checkout: Path, installed: Path) -> list[str]:
    """Python files, relative to the package, that only one side has or whose contents differ."""
    sides = [
        {str(path.relative_to(root)) for path in root.rglob("*.py")}
        for root in (checkout, installed)
    ]
    equal, _, _ = filecmp.cmpfiles(checkout, installed, sides[0] & sides[1], shallow=False)
    return sorted((sides[0] | sides[1]) - set(equal))
