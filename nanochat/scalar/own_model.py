"""The scalar model of a config. That of a model file has checks of what its methods return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nanochat.config.options import TrainConfig
from nanochat.model.model_file import ModelFile, Rule, kind_of
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
    return model(config, matrices, see)


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
