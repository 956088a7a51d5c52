"""The torch model of a config. That of a model file has checks of what its methods return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from nanochat.config.options import TrainConfig
from nanochat.errors import ModelFileError
from nanochat.model.model_file import ModelFile, Rule, computed_too_early, kind_of
from nanochat.tensor.model import MODELS, Block, MiniGPT, See, unseen
from nanochat.tensor.weights import FlatWeights

__all__ = ["model_of"]

_OF_TORCH = frozenset(vars(nn.Module()))  # attributes in which torch keeps its own


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
    kept = {each.untyped_storage().data_ptr() for each in _flat(weights)}
    seen = set(map(id, built.modules()))
    for path, module in built.named_modules():
        place = _place(own, built, path)
        _check_names(place, module)
        for held in _of_module(f"{path}." if path else "", module, seen):
            _check_storage(place, held, kept)
    for name, value in vars(own.module).items():
        for held in _reached(name, value, seen):
            _check_storage(own.place_of(), held, kept)
    return built


def _flat(weights: FlatWeights) -> list[Tensor]:
    return [weights.values, *([] if weights.computed is None else [weights.computed])]


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


class _Held(NamedTuple):
    """A tensor that a step should train or a checkpoint should keep, with its path and kind."""

    path: str
    kind: str
    tensor: Tensor


def _of_module(prefix: str, module: nn.Module, seen: set[int]) -> Iterator[_Held]:
    """Yield the parameters and buffers of a module and what its other attributes hold.

    A buffer that is not persistent is a constant, as torch defines it.
    """
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield _Held(prefix + name, "parameter", parameter)
    for name, buffer in module._buffers.items():
        is_constant = name in module._non_persistent_buffers_set
        if buffer is not None and (buffer.requires_grad or not is_constant):
            yield _Held(prefix + name, "buffer", buffer)
    for name, value in vars(module).items():
        if name not in _OF_TORCH:
            yield from _reached(prefix + name, value, seen)


def _reached(path: str, value: Any, seen: set[int]) -> Iterator[_Held]:
    """Yield what torch does not see: in lists, tuples, sets and dicts, and without a module."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            kind = "parameter" if isinstance(value, nn.Parameter) else "tensor"
            yield _Held(path, kind, value)
    elif isinstance(value, (nn.Module, Mapping, list, tuple, set, frozenset)):
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield from _of_module(f"{path}.", value, seen)
            for name, child in value.named_children():
                yield from _reached(f"{path}.{name}", child, seen)
            return
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _reached(f"{path}[{key!r:.60}]", item, seen)


def _check_storage(place: str, held: _Held, kept: set[int]) -> None:
    """Raise ModelFileError for numbers that no step trains and no checkpoint keeps."""
    path, kind, tensor = held
    if tensor.untyped_storage().data_ptr() in kept:
        return
    if tensor.grad_fn is not None:
        raise ModelFileError(computed_too_early(place, path))
    constant = ", or register a constant with persistent=False" * (kind == "buffer")
    raise ModelFileError(
        f"{place}: {kind} {path} must be a matrix of the run, because no step trains and no"
        " checkpoint keeps any other; declare it in parameters(config) and read it from the"
        f" weights{constant}"
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
