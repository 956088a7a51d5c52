"""The named numbers of a torch model, with the gradients of torch's autograd.

The pass is that of tensor/model.py in the dtype of the run. The kernels of a training step compute
the same in another order, so their numbers may differ by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.model.model_file import ModelFile, changes_of, kind_of
from nanochat.model.parameters import output_size, parameter_specs
from nanochat.model.traced import PER_HEAD, PER_TOKEN, Computed, Edits, TracedText, causal
from nanochat.ngram.share import start_offset
from nanochat.ops.launch import TORCH_DTYPES
from nanochat.ops.reference import capped, head_logits
from nanochat.tensor.inputs import InputsMaker
from nanochat.tensor.own_model import model_of
from nanochat.tensor.weights import FlatWeights

__all__ = ["tensor_trace"]

# Up to this many tokens times weights, threads would wait for each other longer than they work.
_ONE_THREAD = 20_000_000


def tensor_trace(
    config: TrainConfig,
    weights: Mapping[str, NDArray[np.floating]],
    text: TracedText,
    edits: Edits,
    *,
    vocab_size: int,
    dtype: str,
    device: str,
    own: ModelFile | None = None,  # of the config
) -> Computed:
    """Run the model over the text and return every named number."""
    work = len(text.tokens) * sum(array.size for array in weights.values())
    with _threads(1 if work <= _ONE_THREAD else torch.get_num_threads()):
        place, torch_dtype = torch.device(device), TORCH_DTYPES[dtype]
        specs = parameter_specs(config, vocab_size, changes_of(own, config))
        flat = FlatWeights(specs, _float64(weights), device=place, dtype=torch_dtype)
        outputs, seen = (
            output_size(config, vocab_size),
            _Seen(edits, len(text.tokens), config.n_head),
        )
        model = model_of(own, config, flat, outputs, seen)
        maker = InputsMaker(config, outputs, device=place, dtype=torch_dtype, native=False)
        inputs = maker(_batch(text))
        logits = head_logits(model.hidden(inputs), model.head)
        if cap := config.logit_softcap:
            logits = capped(seen("logits_uncapped", logits), cap)
        logits = seen("logits", logits)
        loss = _losses(logits, text, seen).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        flat.gather()
        values, gradients = seen.arrays()
        return Computed(
            values=values, gradients=gradients,
            weight_gradients=_float64(flat.unpack(flat.gradients)),
        )  # fmt: skip


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Seen:
    """Keeps the tensors that the model names, and edits them."""

    def __init__(self, edits: Edits, tokens: int, heads: int) -> None:
        self._edits, self._tokens, self._heads = edits, tokens, heads
        self._tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        self._check(name, x)
        edit = self._edits.get(name)
        if edit is not None:
            given = torch.from_numpy(edit).to(x)
            x = torch.where(given.isnan(), x, given)
        if x.requires_grad:
            x.retain_grad()
        self._tensors[name] = x
        return x

    def _check(self, name: str, x: Tensor) -> None:
        """Raise TypeError or ValueError for what a trace cannot store, at the line of the call."""
        if not isinstance(x, Tensor):
            raise TypeError(f"see must get {name} as a tensor, got {kind_of(x)}")
        tokens, shape = self._tokens, tuple(x.shape)
        if name.endswith(PER_HEAD):
            rule = f"of shape {(expected := (self._heads, tokens, tokens))}"
            fits = shape == expected
        elif name in PER_TOKEN:
            rule, fits = f"of shape ({tokens},)", shape == (tokens,)
        else:
            rule = f"of shape ({tokens}, numbers)"
            fits = len(shape) == 2 and shape[0] == tokens and shape[1] > 0
        if not fits:
            raise ValueError(f"see must get {name} as a tensor {rule}, got {shape}")
        if name in self._tensors:
            raise ValueError(f"see must get {name} once, got it twice; use another name")

    def arrays(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
        values, gradients = {}, {}
        for name, tensor in self._tensors.items():
            values[name] = _array(tensor)
            # None: no loss depends on it.
            gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            gradients[name] = _array(gradient)
            if name.endswith(PER_HEAD):  # a hidden key has no gradient
                gradients[name] *= causal(gradient.shape[-1])
        return values, gradients


def _array(tensor: Tensor) -> NDArray[np.float64]:
    here = tensor.detach().cpu()
    if here.dtype == torch.bfloat16:  # which NumPy lacks
        here = here.float()
    return here.numpy().astype(np.float64)  # NumPy converts a small array in a third of the time


def _float64(arrays: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float64]]:
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def _batch(text: TracedText) -> Batch:
    length = len(text.tokens)
    return Batch(
        inputs=text.tokens[None], targets=text.targets[None], positions=np.arange(length)[None],
        segments=np.zeros((1, length), dtype=np.int64), lengths=np.array([length]),
        global_targets=length,
    )  # fmt: skip


def _losses(logits: Tensor, text: TracedText, see: _Seen) -> Tensor:  # (tokens,)
    """Return the loss of each target in nats, as `nanochat eval` scores it."""
    logits = logits.to("cpu", torch.float64)  # a small probability is 0 in float32
    rows, targets = torch.arange(len(logits)), torch.from_numpy(text.targets)
    if text.by_counts is None:
        probabilities = see("probabilities", logits.softmax(dim=-1))
        return see("losses", -probabilities[rows, targets].log())
    tokens, last = logits[:, :-1], logits[:, -1]
    probabilities = see("probabilities", tokens.softmax(dim=-1))
    gate = last + start_offset(tokens.shape[1]) - tokens.logsumexp(dim=-1)
    share = see("counts_share", torch.sigmoid(gate * text.share.scale + text.share.offset))
    counted = torch.from_numpy(text.by_counts)
    chosen = probabilities[rows, targets]
    return see("losses", -((1 - share) * chosen + share * counted).log())
