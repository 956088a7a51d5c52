"""All parameters of a model in one flat buffer, and their gradients in another.

Flat, because then an update, a norm, a cast and an all-reduce are one call each. This file owns
the buffers and their names; what the matrices mean is the models' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat.model.parameters import Spec

__all__ = ["FlatWeights"]


class FlatWeights:
    """Master weights, gradients and, where the compute dtype is narrower, a copy in that dtype.

    The specs stand one behind the other in their own order, which keeps a group in one piece and
    a layer's wq, wk, wv adjacent. Between steps the gradients are zero.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        initial: Mapping[str, NDArray[np.float64]],
        *,
        device: torch.device,
        dtype: torch.dtype,  # of computation; masters are float64 if it is, float32 otherwise
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
        # Two elements more than weights, the loss and the requests to stop: one all-reduce
        # carries all three.
        self._sums = torch.zeros(self.size + 2, dtype=master, device=device)
        self.gradients = self._sums[:-2]
        self.loss = self._sums[-2]
        self.stop = self._sums[-1]  # above 0 where a process was asked to stop
        self._narrow = self._narrow_gradients = None
        if dtype != master:
            self._narrow = torch.zeros(self.size, dtype=dtype, device=device)
            self._narrow_gradients = torch.zeros_like(self._narrow)
        # From here on the models read the narrow copy; embeddings, which they read in the master
        # dtype, stand before it and may be most of the parameters.
        self._first_narrow = self.size
        self.load(initial)

    @property
    def step_sums(self) -> Tensor:  # (size + 2,)
        """Gradients, loss and requests to stop: everything that is summed over processes."""
        return self._sums

    def leaf(self, name: str, *, rows: int, master: bool = False) -> Tensor:  # (rows, in)
        """A weight that the models compute with; its gradient lands in the flat buffer.

        `rows` may reach over the following matrices of the same width. `master` asks for the
        master weights even where the compute dtype is narrower.
        """
        values, gradients = self.values, self.gradients
        if self._narrow is not None and self._narrow_gradients is not None and not master:
            values, gradients = self._narrow, self._narrow_gradients
            self._cover(self.offsets[name])
        columns = next(spec.shape[1] for spec in self.specs if spec.name == name)
        start = self.offsets[name]
        piece = slice(start, start + rows * columns)
        weight = values[piece].view(rows, columns).detach().requires_grad_()
        weight.grad = gradients[piece].view(rows, columns)
        return weight

    def _cover(self, start: int) -> None:
        """Keep the narrow copy up to date from `start` on."""
        if start < self._first_narrow:
            self._first_narrow = start
            self.publish()

    def gather(self) -> None:
        """Add the gradients of one microbatch in the compute dtype to the master gradients."""
        if self._narrow_gradients is not None:
            narrow = self._narrow_gradients[self._first_narrow :]
            self.gradients[self._first_narrow :].add_(narrow)
            narrow.zero_()

    def publish(self) -> None:
        """Bring the copy in the compute dtype up to date after an update of the masters."""
        if self._narrow is not None:
            first = self._first_narrow
            self._narrow[first:].copy_(self.values[first:])

    def zero(self) -> None:
        """Forget gradients and loss."""
        self._sums.zero_()
        if self._narrow_gradients is not None:
            self._narrow_gradients[self._first_narrow :].zero_()

    def load(self, arrays: Mapping[str, NDArray[np.floating]]) -> None:
        """Take weights by name; shapes have been checked."""
        self.values.copy_(self.pack(arrays))
        self.publish()

    def pack(
        self, arrays: Mapping[str, NDArray[np.floating]], specs: Sequence[Spec] | None = None
    ) -> Tensor:  # (size,) on the CPU
        """Arrays by parameter name as one flat tensor of the master dtype; of all specs or some."""
        chosen = self.specs if specs is None else specs
        flat = np.concatenate([np.ravel(arrays[spec.name]) for spec in chosen])
        return torch.from_numpy(flat).to(self.values.dtype)

    def unpack(
        self, flat: Tensor, specs: Sequence[Spec] | None = None
    ) -> dict[str, NDArray[np.floating]]:
        """A flat tensor as arrays by parameter name; copies."""
        array = flat.detach().cpu().numpy()
        result, start = {}, 0
        for spec in self.specs if specs is None else specs:
            stop = start + spec.shape[0] * spec.shape[1]
            result[spec.name] = array[start:stop].reshape(spec.shape).copy()
            start = stop
        return result
