"""Checks that stop a run before it wastes work: prompt, temperature, finite steps, memory.

Each raises a NanochatError whose message has the figures and a way out. config/ checks the options
themselves; the loop decides what happens to a stopped run.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable

from nanochat.config.options import TrainConfig
from nanochat.errors import ConfigError, MemoryDrift, NonFiniteStep, PromptTooLong
from nanochat.model.parameters import Spec
from nanochat.system import background
from nanochat.system.wording import counted
from nanochat.training.engine import StepMetrics

__all__ = [
    "MemoryGuard",
    "check_finite",
    "check_memory_fits",
    "check_prompt",
    "check_temperature",
    "is_finite",
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


def is_finite(metrics: StepMetrics) -> bool:
    return math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)


def check_finite(metrics: StepMetrics, step: int, last_checkpoint: str | None) -> None:
    """Raise NonFiniteStep if the loss or gradient of step `step`, from 1, is not finite."""
    for name, value in (("loss", metrics.loss), ("gradient norm", metrics.grad_norm)):
        if not math.isfinite(value):
            raise NonFiniteStep(
                f"step {step}: {name} is {value}; weights are those after step {step - 1};"
                f" last good checkpoint: {last_checkpoint or 'none'}; lower lr or set grad_clip"
            )


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
