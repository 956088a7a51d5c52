"""Builds the engine that a config names, and imports it only then.

Importing torch takes longer than preparing a text, so `begin_import` does it meanwhile.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading

from nanochat.config.options import TrainConfig
from nanochat.errors import MissingDependency, UnsupportedOption
from nanochat.model.parameters import parameter_specs
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.system import processes
from nanochat.system.torch_import import THREAD, importing
from nanochat.training.engine import Engine
from nanochat.training.guards import check_memory_fits, training_bytes

__all__ = ["begin_import", "build_engine", "resolve_hardware"]

_TENSOR_ENGINE = "nanochat.tensor.engine"
_TORCH_MISSING = (
    "mode tensor needs torch, which is not installed; pip install 'torch>=2.11,<2.14',"
    " or use mode scalar"
)


def begin_import(config: TrainConfig) -> None:
    """Begin to import the tensor engine on another thread, if the config names it.

    A later import waits for this one and raises its errors. Counting and reading files do not hold
    Python's lock and take place meanwhile. Raises MissingDependency without torch.
    """
    if config.mode != "tensor" or _TENSOR_ENGINE in sys.modules:
        return
    if importlib.util.find_spec("torch") is None:
        raise MissingDependency(_TORCH_MISSING)
    # Not a daemon: a process that ends must not stop a thread inside of torch's C++ code.
    threading.Thread(target=_import_tensor_engine, name=THREAD).start()


def _import_tensor_engine() -> None:
    try:
        with importing():
            importlib.import_module(_TENSOR_ENGINE)
    except BaseException:
        return  # a failed import leaves no module, so the next import tries again and raises


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
        return config.changed(device="cpu", dtype=dtype)
    try:
        from nanochat.tensor.engine import resolve_device
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependency(_TORCH_MISSING) from error
    device, dtype = resolve_device(config)
    return config.changed(device=device, dtype=dtype)


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
