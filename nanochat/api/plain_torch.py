"""The model as a plain torch module, and the file `model.py` that holds its text.

Owns the check that the module computes every option of a model. The module itself is
tensor/standalone_model.py. Imports torch only to build a module.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.errors import MissingDependency, OutputError, UnsupportedOption
from nanochat.exporting.network import check_expressible
from nanochat.exporting.torch_files import KNOWN, MODEL_PY, module_text

if TYPE_CHECKING:
    from nanochat.tensor.standalone_model import GPT

__all__ = ["torch_module", "write_module_text"]


def torch_module(
    config: TrainConfig, weights: Mapping[str, NDArray[np.floating]], network_only: bool
) -> GPT:
    """Return the model as a plain torch module, in the dtype of the weights.

    Raises UnsupportedOption, and MissingDependency without torch.
    """
    _check(config, network_only)
    try:
        from nanochat.tensor.plain_module import plain_module
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependency(
            "to_torch needs torch, which is not installed; pip install 'torch>=2.11,<2.14'"
        ) from error
    return plain_module(config, weights)


def write_module_text(config: TrainConfig, folder: Path, network_only: bool) -> Path:
    """Write the text of the module as model.py into a folder and return its path.

    Raises UnsupportedOption, and OutputError if another model.py is there or the file system
    refuses.
    """
    _check(config, network_only)
    text = module_text()
    path = folder / MODEL_PY
    try:
        if path.exists():
            if path.read_bytes() != text.encode("utf-8"):
                raise OutputError(f"{path} exists and differs; rename or remove it")
            return path
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; give a folder that can be written to"
        ) from error
    return path


def _check(config: TrainConfig, network_only: bool) -> None:
    """Raise UnsupportedOption for an option of the model that the module does not compute."""
    check_expressible(config, KNOWN, MODEL_PY, "use nanochat.load(...) itself, which computes it")
    if config.ngram_order and not network_only:
        raise UnsupportedOption(
            f"{MODEL_PY} holds no counted n-grams, got a model with ngram_order"
            f" {config.ngram_order}; for its network alone, use network_only=True"
        )
