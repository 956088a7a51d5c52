"""Decode steps by nck_decode: all layers of a model in one call, on the CPU.

Owns which models the kernel computes and how one becomes the kernel's description. What a step
computes is in csrc/kernels/abi.h.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from nanochat import native
from nanochat.config import TrainConfig
from nanochat.ops.loss import number_type
from nanochat.tensor.bigram import Bigram
from nanochat.tensor.minigpt import MiniGPT
from nanochat.training.parameters import RMSNORM_EPS, ROPE_BASE, parameter_specs

__all__ = ["NativeSteps", "runs_natively"]

# A step of fewer multiply-adds is one thread's: a second one would gain little and, on a machine
# that is busy, wait for its time slices.
ONE_THREAD = 6_000_000

_PARAMETERS = re.compile(r"wte|wpe|lm_head|layer\d+\.(attn_w[qkvo]|mlp_fc[12])")
_ACTIVATIONS = {"relu": 0, "relu2": 1}  # NCK_RELU, NCK_RELU2
_DTYPES = {getattr(torch, name): native.DTYPES[name] for name in ("float32", "float64", "bfloat16")}


def runs_natively(model: Bigram | MiniGPT, config: TrainConfig, device: torch.device) -> bool:
    """Whether the kernel computes all of this model: a parameter or an option that it does not
    know leaves the model to torch."""
    if device.type != "cpu" or config.model_kind != "mini-gpt" or model.dtype not in _DTYPES:
        return False
    names = [spec.name for spec in parameter_specs(config, len(model.head))]
    return config.activation in _ACTIVATIONS and all(map(_PARAMETERS.fullmatch, names))


class NativeSteps:
    """Rows that grow together. The model's matrices are copied when it opens; they must not change
    as long as it reads."""

    def __init__(self, model: MiniGPT, config: TrainConfig, rows: int) -> None:
        self._vocab = len(model.head)
        self._number = number_type(model.head)
        self._read = native.kernel("decode")
        matrices = sum(w.numel() for b in model.blocks for w in (b.wqkv, b.wo, b.fc1, b.fc2))
        self._products = matrices + model.head.numel()
        self._embeddings = model.wte, model.wpe  # the kernel reads them where they are
        library, pointer = native.cpu(), native.ffi.new("nck_decoder **")
        layers = native.ffi.new("nck_gpt_layer[]", max(len(model.blocks), 1))
        for layer, block in zip(layers, model.blocks, strict=False):  # one more than none
            for name in ("wqkv", "wo", "fc1", "fc2"):
                setattr(layer, name, _address(getattr(block, name)))
        described = native.ffi.new("nck_gpt *", {**_options(model, config), "layers": layers})
        native.check(library.nck_open_decoder(described, rows, pointer), library)
        self._decoder = native.ffi.gc(pointer[0], library.nck_close_decoder)
        self._handle = int(native.ffi.cast("intptr_t", self._decoder))

    def read(
        self,
        tokens: Tensor,  # (rows, width) int64
        first: int,  # tokens that were read before, or 0, which forgets them
    ) -> Tensor:  # (rows, vocab) float32 or float64
        """The logits of the next token; see nck_decode. Raises KernelError."""
        tokens = tokens.contiguous()
        rows, width = tokens.shape
        logits = torch.empty((rows, self._vocab), dtype=self._number)
        few = rows * width * self._products < ONE_THREAD
        threads = 1 if few else torch.get_num_threads()
        status = self._read(
            self._handle, tokens.data_ptr(), width, first, logits.data_ptr(), threads
        )
        if status:
            native.check(status, native.cpu())
        return logits


def _options(model: MiniGPT, config: TrainConfig) -> dict[str, Any]:
    """The fields of nck_gpt, but for its layers."""
    return {
        "vocab": len(model.head),
        "n_embd": config.n_embd,
        "n_layer": len(model.blocks),
        "n_head": config.n_head,
        "block_size": config.block_size,
        "dtype": _DTYPES[model.dtype],
        "activation": _ACTIVATIONS[config.activation],
        "input_norm": config.input_rmsnorm,
        "qk_norm": config.qk_norm,
        "eps": RMSNORM_EPS,
        "rope_base": ROPE_BASE if config.positions == "rope" else 0.0,
        "softcap": config.logit_softcap,
        "wte": _address(model.wte),
        "wpe": native.ffi.NULL if model.wpe is None else _address(model.wpe),
        "lm_head": _address(model.head),
    }


def _address(weight: Tensor) -> Any:
    assert weight.is_contiguous()  # a piece of FlatWeights
    return native.ffi.cast("void *", weight.data_ptr())
