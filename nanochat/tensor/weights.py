"""All parameters of a model in one flat buffer, and their gradients in another.

With flat buffers, an update, a norm, a cast and an all-reduce are one call each. This file owns the
buffers and the names in them; the models give the matrices their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nanochat.model.parameters import Spec

__all__ = ["FlatWeights"]


class FlatWeights:
    """Master weights, gradients and, if the compute dtype differs, a copy in the compute dtype.

    The parameters follow each other in the order of the specs. A group is contiguous in it, and so
    are wq, wk and wv of a layer. Between steps the gradients are zero.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        initial: Mapping[str, NDArray[np.float64]],
        *,
        device: torch.device,
        dtype: torch.dtype,  # of computation; the master dtype is float64 for float64, or float32
    ) -> None:
        self.specs = list(specs)
        self.device = device
        self.dtype = dtype
        master = torch.float64 if dtype == torch.float64 else torch.float32
        self.offsets: dict[str, int] = {}
        self.size = 0
        for spec in self.specs:
            self.offsets[spec.name] = self.size
            self.size += spec.shape[0] * spec.shape[1]
        self.values = torch.zeros(self.size, dtype=master, device=device)
        # The last two elements are the loss and the requests to stop: one all-reduce sums them with
        # the gradients.
        self._sums = torch.zeros(self.size + 2, dtype=master, device=device)
        self.gradients = self._sums[:-2]
        self._after_gradients = self._sums[-2:]
        self.loss = self._sums[-2]
        self.stop = self._sums[-1]  # above 0 if a process was asked to stop
        self._compute = self._compute_gradients = None
        if dtype != master:
            self._compute = torch.zeros(self.size, dtype=dtype, device=device)
            self._compute_gradients = torch.zeros_like(self._compute)
        # The models read the copy from this offset on. The embeddings, which may be most of the
        # parameters, come before it: the models read them in the master dtype.
        self._first_computed = self.size
        self.load(initial)

    @property
    def step_sums(self) -> Tensor:  # (size + 2,)
        """The sums over processes: all gradients, the loss, and the requests to stop."""
        return self._sums

    def leaf(
        self, name: str, *, rows: int | None = None, master: bool = False
    ) -> nn.Parameter:  # (rows, in)
        """Return a view of the weights as a parameter whose gradient is a view of the gradients.

        `rows` may include the following matrices with as many columns; None means the rows of this
        one. `master` asks for the master weights instead of their copy in the compute dtype.
        """
        values, gradients = self.values, self.gradients
        if self._compute is not None and self._compute_gradients is not None and not master:
            values, gradients = self._compute, self._compute_gradients
            self._cover(self.offsets[name])
        shape = next(spec.shape for spec in self.specs if spec.name == name)
        rows, columns = shape[0] if rows is None else rows, shape[1]
        start = self.offsets[name]
        piece = slice(start, start + rows * columns)
        weight = nn.Parameter(values[piece].view(rows, columns))
        weight.grad = gradients[piece].view(rows, columns)
        return weight

    def of_layer(self, layer: int) -> dict[str, nn.Parameter]:
        """Return the matrices of a layer by name, such as mlp_fc1.

        attn_wqkv is wq, wk and wv in one, where they follow each other with as many columns.
        """
        prefix = f"layer{layer}."
        specs = [spec for spec in self.specs if spec.name.startswith(prefix)]
        leaves = {spec.name.removeprefix(prefix): self.leaf(spec.name) for spec in specs}
        first = [spec.name.removeprefix(prefix) for spec in specs[:3]]
        if first == ["attn_wq", "attn_wk", "attn_wv"] and len({s.shape[1] for s in specs[:3]}) == 1:
            rows = sum(spec.shape[0] for spec in specs[:3])
            leaves["attn_wqkv"] = self.leaf(specs[0].name, rows=rows)
        return leaves

    @property
    def computed(self) -> Tensor | None:  # (size,)
        """The copy in the compute dtype, valid from `first_computed` on; None if not needed."""
        return self._compute

    @property
    def first_computed(self) -> int:
        return self._first_computed

    def _cover(self, start: int) -> None:
        """Keep the copy in the compute dtype up to date from `start` on."""
        if start < self._first_computed:
            self._first_computed = start
            self.publish()

    def gather(self) -> None:
        """Add the gradients of one microbatch in the compute dtype to the master gradients."""
        if self._compute_gradients is not None:
            computed = self._compute_gradients[self._first_computed :]
            self.gradients[self._first_computed :].add_(computed)
            computed.zero_()

    def publish(self) -> None:
        """Update the copy in the compute dtype after a change of the master weights."""
        if self._compute is not None:
            first = self._first_computed
            self._compute[first:].copy_(self.values[first:])

    def zero(self) -> None:
        """Set gradients and loss to zero."""
        self._sums.zero_()
        if self._compute_gradients is not None:
            self._compute_gradients[self._first_computed :].zero_()

    def zero_sums(self) -> None:
        """Set the loss and the requests to stop to zero."""
        self._after_gradients.zero_()

    def load(self, arrays: Mapping[str, NDArray[np.floating]]) -> None:
        """Set the weights by name. The caller has checked the shapes."""
        self.values.copy_(self.pack(arrays))
        self.publish()

    def pack(
        self, arrays: Mapping[str, NDArray[np.floating]], specs: Sequence[Spec] | None = None
    ) -> Tensor:  # (size,) on the CPU
        """Return arrays by parameter name as one flat tensor of the master dtype."""
        chosen = self.specs if specs is None else specs
        flat = np.concatenate([np.ravel(arrays[spec.name]) for spec in chosen])
        return torch.from_numpy(flat).to(self.values.dtype)

    def unpack(
        self, flat: Tensor, specs: Sequence[Spec] | None = None
    ) -> dict[str, NDArray[np.floating]]:
        """Return copies of the pieces of a flat tensor as arrays by parameter name."""
        array = flat.detach().cpu().numpy()
        result, start = {}, 0
        for spec in self.specs if specs is None else specs:
            stop = start + spec.shape[0] * spec.shape[1]
            result[spec.name] = array[start:stop].reshape(spec.shape).copy()
            start = stop
        return result
