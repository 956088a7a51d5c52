"""The CPU fast paths of the tensor engine, and the one place that decides where they run.

`native.model.MiniGPT` trains and `native.decoder.NativeDecoder` samples with the project's kernels.
Both compute what model.py computes and are tested against it. An option or a value that COMPUTED
does not list runs model.py instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from nanochat.config.options import TrainConfig, options_of
from nanochat.errors import UnsupportedActivation
from nanochat.model.parameters import parameter_specs

__all__ = [
    "ACTIVATIONS",
    "COMPUTED",
    "DTYPES",
    "OUTSIDE_THE_MODEL",
    "activation_code",
    "decodes",
    "trains",
]

ACTIVATIONS: Mapping[str, int] = {"relu": 0, "relu2": 1}  # NCK_RELU, NCK_RELU2
DTYPES = (torch.float32, torch.float64, torch.bfloat16)

# Every option that changes the model, with the values that the kernels compute. None: all values.
COMPUTED: dict[str, tuple[str | None, ...] | None] = {
    "model_kind": ("bigram", "mini-gpt"),
    "model_file": (None,),
    "activation": tuple(ACTIVATIONS),
    "positions": ("learned", "rope"),
    **dict.fromkeys(
        (
            "n_layer", "n_head", "n_embd", "block_size", "prev_token_tables", "hash_embed_rows",
            "hash_embed_longest", "ngram_order", "tie_lm_head", "input_rmsnorm", "output_rmsnorm",
            "qk_norm", "logit_softcap", "dropout",
        )
    ),
}  # fmt: skip
# Options of the same group that do not change what a model computes from its weights.
OUTSIDE_THE_MODEL = {"mode", "preset", "portable", "init_std", "zero_init"}
_PARAMETERS = re.compile(r"wte(\d*|_ngram)|wpe|lm_head|layer\d+\.(attn_w[qkvo]|mlp_fc[12])")


def trains(config: TrainConfig, device: str, dtype: torch.dtype, *, compiled: bool) -> bool:
    """Return whether the native model trains a config; otherwise model.py does."""
    asked = config.loss == "fused" and not compiled
    return asked and device == "cpu" and _computes(config, dtype)


def decodes(config: TrainConfig, device: str, dtype: torch.dtype) -> bool:
    """Return whether nck_decode samples from a config's model; otherwise model.py does."""
    return device == "cpu" and config.model_kind == "mini-gpt" and _computes(config, dtype)


def activation_code(name: str) -> int:
    """Return the number of an activation in the C ABI. Raises UnsupportedActivation."""
    if name not in ACTIVATIONS:
        known = " or ".join(ACTIVATIONS)
        raise UnsupportedActivation(
            f"the CPU kernels compute activation {known}, got {name}; use loss torch"
        )
    return ACTIVATIONS[name]


def _computes(config: TrainConfig, dtype: torch.dtype) -> bool:
    """Return whether the kernels know the dtype, every model option and every parameter."""
    return dtype in DTYPES and _knows_options(config) and _knows_parameters(config)


def _knows_options(config: TrainConfig) -> bool:
    for name, option in options_of(type(config)).items():
        if option.group != "Model" or name in OUTSIDE_THE_MODEL:
            continue
        if name not in COMPUTED:
            return False
        values = COMPUTED[name]
        if values is not None and getattr(config, name) not in values:
            return False
    return True


def _knows_parameters(config: TrainConfig) -> bool:
    names = [spec.name for spec in parameter_specs(config, vocab_size=1)]
    return all(map(_PARAMETERS.fullmatch, names))
