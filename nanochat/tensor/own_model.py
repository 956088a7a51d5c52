"""The torch model of a config. That of a model file has checks of what its methods return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nanochat.config.options import TrainConfig
from nanochat.errors import ModelFileError
from nanochat.model.model_file import ModelFile, Rule, kind_of
from nanochat.tensor.model import MODELS, Block, MiniGPT, See, unseen
from nanochat.tensor.weights import FlatWeights

__all__ = ["model_of"]


def model_of(
    own: ModelFile | None,  # of the config
    config: TrainConfig,
    weights: FlatWeights,
    vocab_size: int,
    see: See = unseen,
) -> MiniGPT:
    """Build the model of a config: the file's, or the built-in one without a file.

    Raises ConfigError and ModelFileError.
    """
    if own is None:
        return MODELS[config.model_kind](config, weights, vocab_size, see)
    kind = own.model_class("tensor", MiniGPT, Block)
    names = ("forward", "attention", "mlp", "norm")
    block = own.checked(kind.block, Block, dict.fromkeys(names, _as_given))  # type: ignore[attr-defined]  # a MiniGPT
    rules: dict[str, Rule] = {"norm": _as_given, "hidden": _hidden(config.n_embd)}
    model: Callable[..., MiniGPT] = own.checked(kind, MiniGPT, rules, block=block)
    built = model(config, weights, vocab_size, see)
    for path, module in built.named_modules():
        place = _place(own, built, path)
        _check_names(place, module)
        _check_storage(place, f"{path}." if path else "", module, weights)
    return built


def _place(own: ModelFile, model: MiniGPT, path: str) -> str:
    """Return the line of the innermost __init__ of the file that made a module."""
    names = path.split(".") if path else []
    makers = [model.get_submodule(".".join(names[:end])) for end in range(len(names), -1, -1)]
    return own.place_of(*(type(maker).__init__ for maker in makers))


def _check_names(place: str, module: nn.Module) -> None:
    """Raise ModelFileError for a module that a name of the class hides.

    torch keeps modules outside of the attributes of an object, where Python looks after the class.
    It refuses parameters and buffers of such names itself.
    """
    for name in module._modules:
        if hasattr(type(module), name):
            kind = type(module).__name__
            raise ModelFileError(
                f"{place}: self.{name} must not be a module, because {name} of class"
                f" {kind} hides it; keep it under another name and override {name}"
            )


def _check_storage(place: str, prefix: str, module: nn.Module, weights: FlatWeights) -> None:
    """Raise ModelFileError for numbers that no step trains and no checkpoint keeps.

    A buffer that is not persistent is a constant, as torch defines it.
    """
    flat = (weights.values, weights.computed)
    kept = {each.untyped_storage().data_ptr() for each in flat if each is not None}
    tensors: dict[str, tuple[str, Tensor | None]] = {
        **{name: ("parameter", each) for name, each in module._parameters.items()},
        **{
            name: ("buffer", each)
            for name, each in module._buffers.items()
            if name not in module._non_persistent_buffers_set
        },
    }
    for name, (kind, tensor) in tensors.items():
        if tensor is not None and tensor.untyped_storage().data_ptr() not in kept:
            constant = ", or register a constant with persistent=False" * (kind == "buffer")
            raise ModelFileError(
                f"{place}: {kind} {prefix}{name} must be a matrix of the run, because no step"
                " trains and no checkpoint keeps any other; declare it in parameters(config) and"
                f" read it from the weights{constant}"
            )


def _as_given(result: Any, x: Tensor) -> str:
    return _shaped(result, tuple(x.shape))


def _hidden(n_embd: int) -> Rule:
    return lambda result, inputs: _shaped(result, (len(inputs.tokens), n_embd))


def _shaped(result: Any, shape: tuple[int, ...]) -> str:
    rule = f"a tensor of shape {shape}"
    if not isinstance(result, Tensor):
        return f"{rule}, got {kind_of(result)}"
    if tuple(result.shape) != shape:
        return f"{rule}, got {tuple(result.shape)}"
    return "" if result.is_floating_point() else f"{rule} of floats, got {result.dtype}"
