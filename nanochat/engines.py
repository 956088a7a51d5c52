"""Builds the engine that a config names, and imports it only then.

Importing torch takes longer than preparing a text, so `begin_import` does it meanwhile.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nanochat.config.options import TrainConfig
from nanochat.errors import MissingDependency, UnsupportedOption
from nanochat.model.model_file import ModelFile, changes_of
from nanochat.model.parameters import parameter_specs
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.system import processes
from nanochat.system.torch_import import THREAD, importing
from nanochat.training.engine import Decoder, Engine
from nanochat.training.guards import check_memory_fits, training_bytes

if TYPE_CHECKING:
    from nanochat.tensor.native.rows import NativeRows

__all__ = ["begin_import", "build_engine", "open_rows", "resolve_hardware"]

_TENSOR_ENGINE = "nanochat.tensor.engine"
# The methods of an engine that run its model, next to open_decoder.
_RUN_THE_MODEL = (
    "step", "steps", "token_losses", "network_losses", "mixture_parts", "token_shares",
    "numbers_of",
)  # fmt: skip
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
    own: ModelFile | None = None,  # of the config
) -> Engine:
    """Build the engine of a config with resolved hardware. Raises ConfigError if the model cannot
    fit in memory, and ModelFileError, also later, for a fault in the model file."""
    if config.model_kind == "ngram":
        from nanochat.sampling.ngram import NgramEngine

        assert counts is not None
        return NgramEngine(counts)
    specs = parameter_specs(config, vocab_size, changes_of(own, config))
    check_memory_fits(training_bytes(specs, config))
    if own is None:
        return _network(config, vocab_size, longest, own)
    with own.faults():
        return _guarded(_network(config, vocab_size, longest, own), own)


def _network(config: TrainConfig, vocab_size: int, longest: int, own: ModelFile | None) -> Engine:
    if config.mode == "scalar":
        from nanochat.scalar.engine import ScalarEngine

        return ScalarEngine(config, vocab_size, dtype=config.dtype, longest=longest, own=own)
    from nanochat.tensor.engine import TensorEngine

    return TensorEngine(config, vocab_size, device=config.device, dtype=config.dtype, own=own)


def open_rows(engine: Engine, rows: int) -> NativeRows | None:
    """Return a decoder whose texts join and leave while others go on.

    None for a model that the CPU kernel does not compute: only its decoders of texts of one length
    do.
    """
    if engine.mode != "tensor":
        return None
    from nanochat.tensor.engine import TensorEngine
    from nanochat.tensor.native import decodes
    from nanochat.tensor.native.rows import NativeRows

    if not isinstance(engine, TensorEngine):
        return None
    model, config = engine.model, engine.config
    if not decodes(config, engine.weights.device.type, model.dtype):
        return None
    return NativeRows(model, config, rows)


def _guarded(engine: Engine, own: ModelFile) -> Engine:
    """Return the engine with all methods that run the model watched for faults of the file."""
    open_decoder = engine.open_decoder

    def open_guarded(prompts: Sequence[Sequence[int]]) -> Decoder:
        decoder = open_decoder(prompts)
        setattr(decoder, "advance", own.guarded(decoder.advance))  # noqa: B010  # mypy refuses an assignment to a method
        return decoder

    methods: dict[str, Any] = {name: getattr(engine, name, None) for name in _RUN_THE_MODEL}
    for name, method in {**methods, "open_decoder": open_guarded}.items():
        if method is not None:
            setattr(engine, name, own.guarded(method))
    return engine
