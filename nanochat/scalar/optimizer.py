"""SGD and AdamW over the parameter matrices. Owns the state; the arithmetic is in C++."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanochat import _scalar
from nanochat.config.options import TrainConfig
from nanochat.model.parameters import GROUPS, Spec
from nanochat.model.state import check_shapes, moment_specs
from nanochat.scalar.value import Matrix
from nanochat.training.engine import StepSettings

__all__ = ["ScalarOptimizer"]


def _clip_scale(clip: float, grad_norm: float) -> float:
    if clip and grad_norm > clip:
        return min(1.0, clip / (grad_norm + 1e-6))
    return 1.0


class ScalarOptimizer:
    """Updates all matrices in place. AdamW is microgpt.py's Adam with decoupled weight decay."""

    def __init__(self, config: TrainConfig, specs: Sequence[Spec]) -> None:
        self.config = config
        self.specs = specs
        self.steps = 0
        self.moments = {
            f"{moment}.{spec.name}": np.zeros(spec.shape)
            for moment, covered in moment_specs(config.optimizer, specs).items()
            for spec in covered
        }
        self._ranges = list(self._parameter_ranges())

    def _parameter_ranges(self) -> Iterator[tuple[str, int, int]]:
        """Yield (group, begin, end) of neighboring parameters of one group, in spec order."""
        end = 0
        for group, specs in groupby(self.specs, key=lambda spec: spec.group):
            begin = end
            end += sum(int(np.prod(spec.shape)) for spec in specs)
            yield group, begin, end

    def step(
        self, matrices: Mapping[str, Matrix], settings: StepSettings, grad_norm: float
    ) -> None:
        """Update the matrices once; gradients above grad_clip are clipped as in torch."""
        config = self.config
        scale = _clip_scale(config.grad_clip, grad_norm)
        self.steps += 1
        for spec in self.specs:
            lr, matrix = settings.lr[spec.group], matrices[spec.name]
            if config.optimizer == "adamw":
                m, v = self.moments[f"m.{spec.name}"], self.moments[f"v.{spec.name}"]
                _scalar.adamw_step(
                    matrix, m, v, lr=lr, beta1=config.beta1, beta2=config.beta2, eps=config.eps,
                    weight_decay=config.weight_decay, t=self.steps, grad_scale=scale,
                )  # fmt: skip
            else:
                buffer = self.moments[f"momentum.{spec.name}"]
                _scalar.sgd_step(
                    matrix, buffer, lr=lr, momentum=config.beta1,
                    weight_decay=config.weight_decay, first=self.steps == 1, grad_scale=scale,
                )  # fmt: skip

    def step_program(
        self, program: _scalar.Program, settings: StepSettings, grad_norm: float
    ) -> None:
        """Update the arrays of a program once."""
        config = self.config
        scale = _clip_scale(config.grad_clip, grad_norm)
        self.steps += 1
        for group, begin, end in self._ranges:
            lr = settings.lr[group]
            if config.optimizer == "adamw":
                program.adamw(
                    begin, end, lr, config.beta1, config.beta2, config.eps, config.weight_decay,
                    self.steps, scale,
                )  # fmt: skip
            else:
                program.sgd(
                    begin, end, lr, config.beta1, config.weight_decay, self.steps == 1, scale
                )

    def block_options(
        self,
        rates: NDArray[np.float64],  # (steps, len(GROUPS))
    ) -> dict[str, Any]:
        """Return the arguments of Program.steps for the next steps. The caller counts them."""
        config = self.config
        columns = [GROUPS.index(group) for group, _, _ in self._ranges]
        return {
            "ends": [end for _, _, end in self._ranges],
            "rates": rates[:, columns],
            "adamw": config.optimizer == "adamw",
            "beta1": config.beta1,
            "beta2": config.beta2,
            "eps": config.eps,
            "weight_decay": config.weight_decay,
            "grad_clip": config.grad_clip,
            "done": self.steps,
        }

    def moments_in(self, program: _scalar.Program) -> tuple[NDArray[np.floating], ...]:
        """Return the flat moments that a program holds: one of SGD, two of AdamW."""
        both = (program.first_moments, program.second_moments)
        return both if self.config.optimizer == "adamw" else both[:1]

    def flat_moments(self) -> tuple[NDArray[np.float64], ...]:
        """Return the same of the arrays that the tape uses."""
        return tuple(
            np.concatenate([self.moments[f"{moment}.{spec.name}"].ravel() for spec in specs])
            for moment, specs in moment_specs(self.config.optimizer, self.specs).items()
        )

    def copy_moments_from(self, program: _scalar.Program) -> None:
        """Copy the moments from a program."""
        for array, held in self._held_by(program):
            array[:] = held.reshape(array.shape)

    def copy_moments_to(self, program: _scalar.Program) -> None:
        """Copy the moments to a program."""
        for array, held in self._held_by(program):
            held[:] = array.ravel()

    def _held_by(
        self, program: _scalar.Program
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.floating]]]:
        sources = (program.first_moments, program.second_moments)
        moments = moment_specs(self.config.optimizer, self.specs)
        for (moment, specs), held in zip(moments.items(), sources, strict=False):
            at = 0
            for spec in specs:
                array = self.moments[f"{moment}.{spec.name}"]
                yield array, held[at : at + array.size]
                at += array.size

    def state_dict(self, dtype: DTypeLike) -> dict[str, NDArray[np.floating]]:
        state = {name: array.astype(dtype) for name, array in self.moments.items()}
        return {**state, "step": np.array([self.steps], dtype=np.float64)}

    def load_state_dict(self, state: Mapping[str, NDArray[np.floating]]) -> None:
        """Load a saved state. An empty mapping resets the optimizer."""
        if not state:
            self.steps = 0
            for array in self.moments.values():
                array.fill(0.0)
            return
        expected = {name: array.shape for name, array in self.moments.items()}
        check_shapes(state, {**expected, "step": (1,)}, "optimizer state")
        self.steps = int(state["step"][0])
        for name, array in self.moments.items():
            array[:] = state[name]
