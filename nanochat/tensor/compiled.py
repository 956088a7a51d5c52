"""The model's loss through torch.compile: when it pays, and what it says where it cannot.

On the CPU it does not pay, short of thousands of steps at a context so long that attention is
torch's: our kernels take less time than what the compiler writes, and compiling takes its own
(`python -m bench.tensor.compile`). On a GPU the blocks are plain torch, and a small model's step is the
host's calls: compiled, it is a few kernels, and with CUDA graphs one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.errors import UnsupportedOption

__all__ = ["compile_pays", "compiled", "has_one_shape"]

# On a GPU, steps from which `auto` compiles: a guess, no run was timed on one yet.
GPU_STEPS = 1000


def compile_pays(config: TrainConfig, device: str) -> bool:
    """Whether a run's steps are compiled; `auto` knows the device and the number of steps."""
    if config.compile == "auto":
        return device == "cuda" and config.steps >= GPU_STEPS
    return config.compile == "on"


def has_one_shape(config: TrainConfig) -> bool:
    """Whether all batches are of one shape, as a CUDA graph wants it; bags are not."""
    return config.batching == "windows" and not (config.past_embeds or config.ngram_rows)


def compiled(loss: Callable[..., Tensor], *, graphs: bool) -> Callable[..., Tensor]:
    """`loss`, compiled at its first call; with CUDA graphs for inputs of the same shapes.

    Raises UnsupportedOption where the compiler fails, such as without a C++ compiler.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second, which other runs need not wait

    fast = torch.compile(loss, mode="reduce-overhead" if graphs else "default")

    def call(*arguments: Any) -> Tensor:
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch has no types here
        try:
            return fast(*arguments)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedOption(
                f"compile cannot be on here: {reason}; use compile off"
            ) from None

    return call
