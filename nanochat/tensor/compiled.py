"""The loss through torch.compile: when compiling pays, and the error where it is impossible.

On the CPU compiling does not pay, except for thousands of steps with a context so long that torch
computes the attention. Our kernels take less time than the compiler's code, and compiling itself
takes time (`python -m bench.tensor.compile`). On a GPU the blocks are plain torch, and a step of a
small model is bound by calls on the host. Compiled, the step is a few kernels; with CUDA graphs it
is one call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.errors import UnsupportedOption
from nanochat.system.cache import writable_cache

__all__ = ["compile_pays", "compiled", "has_one_shape"]

Loss = Callable[..., tuple[Tensor, Tensor]]  # the summed loss, and what training lowers

# On a GPU, `auto` compiles runs of at least this many steps. This is a guess without timings.
GPU_STEPS = 1000


def compile_pays(config: TrainConfig, device: str) -> bool:
    """Return whether to compile the steps; `auto` depends on the device and the number of steps."""
    if config.compile == "auto":
        return device == "cuda" and config.steps >= GPU_STEPS
    return config.compile == "on"


def has_one_shape(config: TrainConfig) -> bool:
    """Return whether all batches have one shape, as a CUDA graph needs; bags have varying sizes."""
    return config.batching == "windows" and not (config.prev_token_tables or config.hash_embed_rows)


def compiled(loss: Loss, *, graphs: bool) -> Loss:
    """Return `loss`, to be compiled at its first call; CUDA graphs serve inputs of equal shapes.

    A call raises UnsupportedOption if the compiler fails, for example without a C++ compiler.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes about 1 s to import

    folder = writable_cache("inductor")
    if folder is not None:  # otherwise torch takes a temporary folder
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    fast = torch.compile(loss, mode="reduce-overhead" if graphs else "default")

    def call(*arguments: Any) -> tuple[Tensor, Tensor]:
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch has no types here
        try:
            return fast(*arguments)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedOption(
                f"compile on does not work on this machine: {reason}; use compile off"
            ) from error

    return call
