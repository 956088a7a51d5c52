"""Train, sample, evaluate and ablate small language models, in scalars and in tensors.

Everything named here is imported when it is first used: `import nanochat` itself loads neither
numpy nor torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if {name for name in os.listdir(__path__[0]) if name.startswith("_scalar.")} <= {"_scalar.pyi"}:
    # An unbuilt checkout: use the compiled files of the installed package.
    import_module("nanochat.system.checkout").borrow_compiled_files(__path__)

if TYPE_CHECKING:
    from nanochat.commands.ablate import AblationResult, ablate
    from nanochat.commands.evaluate import EvalResult, evaluate
    from nanochat.commands.info import info
    from nanochat.commands.sample import sample
    from nanochat.commands.train import TrainResult, train
    from nanochat.config.options import AblateConfig, EvalConfig, SampleConfig, TrainConfig
    from nanochat.errors import NanochatError
    from nanochat.scalar.program import Program, compile  # noqa: A004 – nanochat.compile, as torch
    from nanochat.scalar.value import Matrix, Value, detached_max, select

_HOMES = {
    "AblateConfig": "nanochat.config.options",
    "AblationResult": "nanochat.commands.ablate",
    "EvalConfig": "nanochat.config.options",
    "EvalResult": "nanochat.commands.evaluate",
    "NanochatError": "nanochat.errors",
    "SampleConfig": "nanochat.config.options",
    "TrainConfig": "nanochat.config.options",
    "TrainResult": "nanochat.commands.train",
    "Matrix": "nanochat.scalar.value",
    "Program": "nanochat.scalar.program",
    "Value": "nanochat.scalar.value",
    "ablate": "nanochat.commands.ablate",
    "compile": "nanochat.scalar.program",
    "detached_max": "nanochat.scalar.value",
    "evaluate": "nanochat.commands.evaluate",
    "info": "nanochat.commands.info",
    "sample": "nanochat.commands.sample",
    "select": "nanochat.scalar.value",
    "train": "nanochat.commands.train",
}

__all__ = [
    "AblateConfig",
    "AblationResult",
    "EvalConfig",
    "EvalResult",
    "Matrix",
    "NanochatError",
    "Program",
    "SampleConfig",
    "TrainConfig",
    "TrainResult",
    "Value",
    "ablate",
    "compile",
    "detached_max",
    "evaluate",
    "info",
    "sample",
    "select",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'nanochat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
