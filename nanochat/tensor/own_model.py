"""The torch model of a model file, with checks of what the user's methods return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.model.model_file import ModelFile, Rule, kind_of
from nanochat.tensor.model import Block, MiniGPT, See, unseen
from nanochat.tensor.weights import FlatWeights

__all__ = ["own_model"]


def own_model(
    own: ModelFile, config: TrainConfig, weights: FlatWeights, vocab_size: int, see: See = unseen
) -> MiniGPT:
    """Build the TensorModel of a file. Raises ConfigError and ModelFileError."""
    kind = own.model_class("tensor", MiniGPT, Block)
    names = ("forward", "attention", "mlp", "norm")
    block = own.checked(kind.block, Block, dict.fromkeys(names, _as_given))  # type: ignore[attr-defined]  # a MiniGPT
    rules: dict[str, Rule] = {"norm": _as_given, "hidden": _hidden(config.n_embd)}
    model: Callable[..., MiniGPT] = own.checked(kind, MiniGPT, rules, block=block)
    return model(config, weights, vocab_size, see)


def _as_given(result: Any, arguments: tuple[Any, ...]) -> str:
    return _shaped(result, tuple(arguments[0].shape))


def _hidden(n_embd: int) -> Rule:
    return lambda result, arguments: _shaped(result, (len(arguments[0].tokens), n_embd))


def _shaped(result: Any, shape: tuple[int, ...]) -> str:
    rule = f"a tensor of shape {shape}"
    if not isinstance(result, Tensor):
        return f"{rule}, got {kind_of(result)}"
    if tuple(result.shape) != shape:
        return f"{rule}, got {tuple(result.shape)}"
    return "" if result.is_floating_point() else f"{rule} of floats, got {result.dtype}"
