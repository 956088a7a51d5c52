"""Checks that stop a run before it wastes work: prompt, temperature, finite steps, memory.

Each raises a NanochatError whose message has the figures and a way out. config/ checks the options
themselves; the loop decides what happens to a stopped run.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np

from nanochat.config.options import TrainConfig
from nanochat.errors import ConfigError, MemoryDrift, NonFiniteStep, PromptTooLong
from nanochat.model.parameters import Spec
from nanochat.system import background
from nanochat.system.wording import counted
from nanochat.training.engine import EngineState, StepMetrics

__all__ = [
    "MemoryGuard",
    "check_finite",
    "check_finite_loss",
    "check_finite_state",
    "check_memory_fits",
    "check_prompt",
    "check_temperature",
    "is_finite",
    "is_finite_loss",
    "most_loss",
    "training_bytes",
]

MIB, GIB = 1 << 20, 1 << 30
DRIFT_WINDOW = 16  # evaluations
DRIFT_BYTES = 256 * MIB  # smaller growth is normal for allocators


def check_prompt(length: int, block_size: int, *, bos: bool = True) -> None:
    """Raise PromptTooLong unless `length` tokens, BOS included if it is there, fit in the context
    window."""
    if length > block_size:
        raise PromptTooLong(
            f"prompt has {length} tokens{' with BOS' if bos else ''}, block_size is {block_size};"
            f" shorten it to {block_size - bos}"
        )


def check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature must be finite and >= 0, got {temperature}")


def most_loss(vocab_size: int) -> float:
    """Return the loss above which a run has diverged: a thousand times that of guessing.

    The targets' mean probability is then below vocab_size ** -1000. Even of two tokens that is
    2 ** -1000, close to the least that a float64 holds: the weights have left the range in which
    gradients say more than that everything is wrong.
    """
    return 1000 * math.log(max(vocab_size, 2))


def is_finite(metrics: StepMetrics, most: float = math.inf) -> bool:
    """Whether loss and gradient norm are finite and the loss is at most `most`."""
    return is_finite_loss(metrics.loss, most) and math.isfinite(metrics.grad_norm)


def is_finite_loss(loss: float, most: float = math.inf) -> bool:
    return math.isfinite(loss) and loss <= most


def check_finite(
    metrics: StepMetrics, step: int, last_checkpoint: str | None, most: float = math.inf
) -> None:
    """Raise NonFiniteStep if the loss of step `step`, from 1, or its gradient is not finite, or the
    loss is above `most`."""
    if is_finite(metrics, most):
        return
    name, value = "loss", metrics.loss
    if is_finite_loss(value, most):
        name, value = "gradient norm", metrics.grad_norm
    problem = f"is {value}; weights are those after step {step - 1}"
    if math.isfinite(value):
        problem = _too_large(value, most)
    raise NonFiniteStep(
        f"step {step}: {name} {problem}; last good checkpoint: {last_checkpoint or 'none'};"
        " lower lr or set grad_clip",
        step, {"loss": metrics.loss, "grad_norm": metrics.grad_norm},
    )  # fmt: skip


def check_finite_loss(
    name: str,  # of the loss
    loss: float,
    step: int,  # after which the weights have it
    last_checkpoint: str | None,
    most: float = math.inf,
) -> None:
    """Raise NonFiniteStep if the weights have a loss that is not finite, or above `most`."""
    if is_finite_loss(loss, most):
        return
    problem = _too_large(loss, most) if math.isfinite(loss) else f"is {loss}"
    raise NonFiniteStep(
        f"after step {step}: {name} {problem}; last good checkpoint: {last_checkpoint or 'none'};"
        f" {'lower lr or set grad_clip' if step else 'lower init_std'}",
        step, {name.replace(" ", "_"): loss},
    )  # fmt: skip


def check_finite_state(state: EngineState, step: int, last_checkpoint: str | None) -> None:
    """Raise NonFiniteStep if a value that a checkpoint would hold is not finite.

    No loss shows it while no batch reads the value, or while its update is 0, as after a second
    moment that is infinite. No command would load the checkpoint.
    """
    for what, arrays in (("weight", state.weights), ("optimizer state", state.optimizer)):
        for name, array in arrays.items():
            is_right = np.isfinite(array)
            if is_right.all():
                continue
            value = float(array[~is_right][0])
            raise NonFiniteStep(
                f"after step {step}: {what} {name} has a value that is {value}; last good"
                f" checkpoint: {last_checkpoint or 'none'};"
                f" {'lower lr or set grad_clip' if step else 'lower init_std'}",
                step, {f"{what} {name}".replace(" ", "_"): value},
            )  # fmt: skip


def _too_large(loss: float, most: float) -> str:
    return f"must be at most {most:.6g}, a thousand times that of guessing, got {loss:.6g}"


# On Linux both figures are one line of a file. psutil reads the same lines, but importing it takes
# longer than training a small model.


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    import psutil

    return int(psutil.Process().memory_info().rss)


def _available_bytes() -> int:
    try:
        with open("/proc/meminfo", "rb") as file:
            lines = (line.split() for line in file)
            return next(int(words[1]) << 10 for words in lines if words[0] == b"MemAvailable:")
    except (OSError, StopIteration):
        pass
    import psutil

    return int(psutil.virtual_memory().available)


class MemoryGuard:
    """Stops a run that leaks: compares resident memory with its minimum over recent evaluations.

    The first observation, before any step, does not count: the first steps allocate optimizer
    state, compiled code and memory pools. Nor do observations during background work, whose memory
    is not a leak. A ratio of 0 turns the guard off.
    """

    def __init__(self, ratio: float, read_rss: Callable[[], int] = _resident_bytes) -> None:
        self._ratio = ratio
        self._read_rss = read_rss
        self._started = False
        self._window: deque[int] = deque(maxlen=DRIFT_WINDOW)

    def observe(self) -> None:
        """Read the memory, once per evaluation. Raises MemoryDrift if it has grown past the ratio
        and by more than 256 MiB."""
        if not self._ratio:
            return
        if not self._started:
            self._started = True
            return
        if background.is_active():
            return
        rss = self._read_rss()
        lowest = min(self._window, default=rss)
        if rss > self._ratio * lowest and rss - lowest > DRIFT_BYTES:
            raise MemoryDrift(
                f"resident memory must stay within {self._ratio:g} times its lowest of the last"
                f" {counted(len(self._window), 'evaluation')}, {lowest / MIB:.0f} MiB, got"
                f" {rss / MIB:.0f} MiB; raise memory_drift, or set it to 0 to turn this check off"
            )
        self._window.append(rss)


def training_bytes(specs: Iterable[Spec], config: TrainConfig) -> int:
    """Return the bytes of weights, gradients and optimizer state, without activations."""
    # With bfloat16 the master weights are float32.
    is_float64 = config.dtype == "float64" or (config.dtype == "auto" and config.mode == "scalar")
    moments = 1 if config.optimizer == "sgd" else 2
    elements = sum(spec.shape[0] * spec.shape[1] for spec in specs)
    return elements * (8 if is_float64 else 4) * (2 + moments)


def check_memory_fits(bytes_needed: int, available: Callable[[], int] = _available_bytes) -> None:
    """Raise ConfigError if the machine has less memory than the model needs."""
    free = available()
    if bytes_needed > free:
        raise ConfigError(
            f"model needs {bytes_needed / GIB:.1f} GiB for weights, gradients and optimizer state,"
            f" {free / GIB:.1f} GiB are available; lower n_embd or n_layer"
        )
