"""The formats that a network can be exported to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nanochat.export.network import Known, Network
from nanochat.export.verification import LoadAndRun

__all__ = ["Format", "format_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a format is written and read back."""

    known: Known  # what it can express
    files: Callable[[Network], dict[str, bytes]]  # the content of each file of the folder
    load_and_run: LoadAndRun  # with the program that the format is for


def format_of(name: str) -> Format:
    """Return a format by its name, one of EXPORT_FORMATS."""
    if name == "hf":
        from nanochat.export import hf

        return Format(known=hf.KNOWN, files=hf.files, load_and_run=hf.load_and_run)
    raise AssertionError(name)
