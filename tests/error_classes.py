"""Every kind of error in the package, wherever it is defined."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import nanochat
from nanochat.errors import NanochatError

__all__ = ["error_classes"]


def error_classes() -> set[type[NanochatError]]:
    """Return all classes below NanochatError in all modules, which are imported first."""
    for module in pkgutil.walk_packages(nanochat.__path__, "nanochat."):
        if not module.name.endswith(("__main__", "libnck", "libnck_cuda")):  # no modules of Python
            importlib.import_module(module.name)
    return {kind for kind in _below(NanochatError) if kind.__module__.startswith("nanochat")}


def _below(kind: type[NanochatError]) -> Iterator[type[NanochatError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)
