"""The scalar model of a model file, with checks of what the user's methods return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nanochat.config.options import TrainConfig
from nanochat.model.model_file import ModelFile, Rule, kind_of
from nanochat.scalar.minigpt import Block, MiniGPT, See, unseen
from nanochat.scalar.value import Matrix, Value

__all__ = ["own_model"]


def own_model(
    own: ModelFile, config: TrainConfig, matrices: Mapping[str, Matrix], see: See = unseen
) -> MiniGPT:
    """Build the ScalarModel of a file. Raises ConfigError and ModelFileError."""
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
