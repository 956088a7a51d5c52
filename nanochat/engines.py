"""Builds the engine that a config names, and imports it only then."""

from __future__ import annotations

import dataclasses

from nanochat.config.options import TrainConfig
from nanochat.errors import MissingDependency, UnsupportedOption
from nanochat.model.parameters import parameter_specs
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.system import processes
from nanochat.training.engine import Engine
from nanochat.training.guards import check_memory_fits, training_bytes

__all__ = ["build_engine", "resolve_hardware"]

_TORCH_MISSING = (
    "mode tensor needs torch, which is not installed; pip install 'torch>=2.11,<2.14',"
    " or use mode scalar"
)


def resolve_hardware(config: TrainConfig) -> TrainConfig:
    """Return the config with device and dtype resolved for this machine.

    Raises MissingDependency without torch in mode tensor, UnsupportedDevice, UnsupportedDtype.
    """
    if config.mode == "scalar":
        if processes.world() > 1 and config.model_kind == "ngram":
            raise UnsupportedOption(
                f"model_kind ngram does not support {processes.world()} processes; start one"
            )
        if processes.world() > 1:
            raise UnsupportedOption(
                f"mode scalar does not support {processes.world()} processes; use mode tensor"
            )
        dtype = "float64" if config.dtype == "auto" else config.dtype
        return dataclasses.replace(config, device="cpu", dtype=dtype)
    try:
        from nanochat.tensor.engine import resolve_device
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependency(_TORCH_MISSING) from error
    device, dtype = resolve_device(config)
    return dataclasses.replace(config, device=device, dtype=dtype)


def build_engine(
    config: TrainConfig,
    vocab_size: int,
    longest: int = 0,  # positions of the longest segment to come; 0 if unknown
    counts: KneserNey | None = None,  # of the run's n-grams; a network does not need them
) -> Engine:
    """Build the engine of a config with resolved hardware. Raises ConfigError if the model cannot
    fit in memory."""
    if config.model_kind == "ngram":
        from nanochat.sampling.ngram import NgramEngine

        assert counts is not None
        return NgramEngine(counts)
    check_memory_fits(training_bytes(parameter_specs(config, vocab_size), config))
    if config.mode == "scalar":
        from nanochat.scalar.engine import ScalarEngine

        return ScalarEngine(config, vocab_size, dtype=config.dtype, longest=longest)
    from nanochat.tensor.engine import TensorEngine

    return TensorEngine(config, vocab_size, device=config.device, dtype=config.dtype)
