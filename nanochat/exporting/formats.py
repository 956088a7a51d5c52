"""The formats that a network can be exported to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanochat.exporting.network import Known, Network
from nanochat.exporting.verification import LoadAndRun

__all__ = ["Format", "format_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a format is written and read back."""

    known: Known  # what it can express
    write: Callable[[Network, Path, str], None]  # the files with weights of a type, into a folder
    load_and_run: LoadAndRun  # with the program that the format is for


def format_of(name: str) -> Format:
    """Return a format by its name, one of EXPORT_FORMATS."""
    if name == "hf":
        from nanochat.exporting import hf

        return Format(known=hf.KNOWN, write=hf.write, load_and_run=hf.load_and_run)
    if name == "c":
        from nanochat.exporting import c_source

        return Format(
            known=c_source.KNOWN, write=c_source.write, load_and_run=c_source.load_and_run
        )
    if name == "gguf":
        from nanochat.exporting import gguf_file

        return Format(
            known=gguf_file.KNOWN, write=gguf_file.write, load_and_run=gguf_file.load_and_run
        )
    if name == "onnx":
        from nanochat.exporting import onnx_graph

        return Format(
            known=onnx_graph.KNOWN, write=onnx_graph.write, load_and_run=onnx_graph.load_and_run
        )
    if name == "torch":
        from nanochat.exporting import torch_files

        return Format(
            known=torch_files.KNOWN, write=torch_files.write, load_and_run=torch_files.load_and_run
        )
    raise AssertionError(name)
