"""The commands of the benchmarks: their parsers, and the processes that they start.

Imports only the standard library: some workers run under a peer's interpreter, which need not have
nanochat.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

__all__ = [
    "ROOT", "command_parser", "environment_without_root", "module_command", "module_environment",
    "nanochat_command",
]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent  # of the repository


def command_parser(doc: str | None, **options: str) -> argparse.ArgumentParser:
    """Return a parser described by a module's docstring, which names its command."""
    command = re.search(r"python -m bench[\w.]*", doc or "")
    assert command is not None, "the docstring must name `python -m bench.…`"
    return argparse.ArgumentParser(
        prog=command[0],
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,  # type: ignore[arg-type]  # texts such as fromfile_prefix_chars
    )


def module_command(module: str, *arguments: object, python: str = sys.executable) -> list[str]:
    """Return the command that runs a module of the benchmarks. Needs `module_environment()`."""
    return [python, "-m", module, *map(str, arguments)]


def module_environment(**variables: str) -> dict[str, str]:
    """Return the environment with `variables`, in which `bench` is importable from any folder."""
    paths = [str(ROOT), *_python_path()]
    return {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(paths)}


def environment_without_root() -> dict[str, str]:
    """Return the environment in which Python imports the installed nanochat, not the checkout's."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if paths := [path for path in _python_path() if Path(path).resolve() != ROOT]:
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def nanochat_command() -> str:
    """Return the path of the installed `nanochat`. Raises SystemExit if it is not installed."""
    found = shutil.which("nanochat", path=sysconfig.get_path("scripts"))
    found = found or shutil.which("nanochat")
    if found is None:
        raise SystemExit("nanochat must be installed for this benchmark: run `pip install .`")
    return found
