"""The scalar model of a config. That of a model file has checks of what its methods return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nanochat.config.options import TrainConfig
from nanochat.errors import ModelFileError
from nanochat.model.model_file import ModelFile, Rule, computed_too_early, kind_of
from nanochat.scalar.bigram import Bigram
from nanochat.scalar.minigpt import Block, MiniGPT, See, unseen
from nanochat.scalar.value import Matrix, Value

__all__ = ["model_of"]

_MODELS: Mapping[str, type[Any]] = {"bigram": Bigram, "mini-gpt": MiniGPT}


def model_of(
    own: ModelFile | None,  # of the config
    config: TrainConfig,
    matrices: Mapping[str, Matrix],
    see: See = unseen,
) -> Any:
    """Build the model of a config: the file's, or the built-in one without a file.

    Raises ConfigError and ModelFileError.
    """
    if own is None:
        return _MODELS[config.model_kind](config, matrices, see)
    kind = own.model_class("scalar", MiniGPT, Block)
    hidden, outputs = config.n_embd, len(matrices["wte"].values)
    in_block = {
        "forward": _numbers(hidden), "attention": _numbers(hidden), "mlp": _numbers(hidden),
        "norm": _numbers(), "activation": _numbers(None),
    }  # fmt: skip
    in_model = {"logits": _numbers(outputs), "norm": _numbers()}
    block = own.checked(kind.block, Block, in_block)  # type: ignore[attr-defined]  # a MiniGPT
    model: Callable[..., MiniGPT] = own.checked(kind, MiniGPT, in_model, block=block)
    built = model(config, matrices, see)
    if (path := _computed(built)) is not None:
        makers = (block, kind) if path.startswith(".blocks[") else (kind,)
        place = own.place_of(*(maker.__init__ for maker in makers))  # type: ignore[misc]  # each class's own
        raise ModelFileError(computed_too_early(place, path.removeprefix(".")))
    return built


def _computed(value: Any) -> str | None:
    """Return the path of the first Value that is the result of an operation, or None.

    Other Values than those of the matrices belong to another tape, so using them is an error.
    """
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Value):
        return "" if value.op else None
    if isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (Block, MiniGPT)):
        items = vars(value).items()
    for key, item in items:
        if (rest := _computed(item)) is not None:
            is_attribute = isinstance(value, (Block, MiniGPT))
            return (f".{key}" if is_attribute else f"[{key!r:.60}]") + rest
    return None


def _numbers(size: int | None = 0) -> Rule:
    """Return the rule of a list of Values: `size` of them; 0: as many as given; None: some."""

    def rule(result: Any, first: Any) -> str:
        count = len(first) if size == 0 else size
        rule = f"a list of {count} Values" if count is not None else "a list of Values"
        if not isinstance(result, (list, tuple)):
            return f"{rule}, got {kind_of(result)}"
        for value in result:
            if not isinstance(value, Value):
                return f"{rule}, got one with {kind_of(value)}"
        if len(result) != count if count is not None else not result:
            return f"{rule}, got {len(result)}"
        return ""

    return rule
