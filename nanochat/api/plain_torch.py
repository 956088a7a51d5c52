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

from nanochat.config.option import as_text
from nanochat.config.options import TrainConfig, options_of
from nanochat.errors import MissingDependency, OutputError, UnsupportedOption

if TYPE_CHECKING:
    from nanochat.tensor.standalone_model import GPT

__all__ = ["NOT_OF_THE_MODEL", "REPRESENTED", "torch_module", "write_module_text"]

MODEL_PY = "model.py"
SOURCE = Path(__file__).parent.parent / "tensor" / "standalone_model.py"

# The options that the plain module computes, with the values that it knows. None: all values.
REPRESENTED: dict[str, tuple[str | int | None, ...] | None] = {
    "model_kind": ("bigram", "mini-gpt"),
    "model_file": (None,),
    "activation": ("relu", "relu2"),
    "positions": ("learned", "rope"),
    **dict.fromkeys(
        (
            "n_layer", "n_head", "n_embd", "block_size", "prev_token_tables", "hash_embed_rows",
            "hash_embed_longest", "ngram_order", "tie_lm_head", "input_rmsnorm", "output_rmsnorm",
            "qk_norm", "logit_softcap",
        )
    ),
}  # fmt: skip
# Options of the same group that do not change what trained weights compute.
NOT_OF_THE_MODEL = {"mode", "preset", "init_std", "zero_init", "dropout"}


def torch_module(
    config: TrainConfig, weights: Mapping[str, NDArray[np.floating]], network_only: bool
) -> GPT:
    """Return the model as a plain torch module, in the dtype of the weights.

    Raises UnsupportedOption, and MissingDependency without torch.
    """
    _check_represented(config, network_only)
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
    _check_represented(config, network_only)
    text = SOURCE.read_text(encoding="utf-8")
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


def _check_represented(config: TrainConfig, network_only: bool) -> None:
    """Raise UnsupportedOption for an option of the model that the module does not compute."""
    for name, option in options_of(TrainConfig).items():
        if option.group != "Model" or name in NOT_OF_THE_MODEL:
            continue
        value = getattr(config, name)
        known = REPRESENTED.get(name, ())
        if known is not None and value not in known:
            raise UnsupportedOption(
                f"{MODEL_PY} does not support {name} {as_text(value)}; use nanochat.load(...)"
                " itself, which computes it"
            )
    if config.ngram_order and not network_only:
        raise UnsupportedOption(
            f"{MODEL_PY} holds no counted n-grams, got a model with ngram_order"
            f" {config.ngram_order}; for its network alone, use network_only=True"
        )
