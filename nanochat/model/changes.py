"""What a model file may change of the matrices, and what a run's record of it may say.

Leaves out where each matrix comes in the order of all (parameters.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nanochat.config.option import shown
from nanochat.config.options import TrainConfig
from nanochat.errors import ConfigError

__all__ = ["MOST_CHANGES", "MOST_ROWS", "NAME", "check_changes"]

MOST_CHANGES = 4096
MOST_ROWS = 1 << 24  # and columns
NAME = re.compile(r"(?:layer(?P<layer>0|[1-9][0-9]{0,2})\.)?[A-Za-z_][A-Za-z0-9_]{0,47}")
_FIXED = re.compile(r"wte.*|wpe|lm_head")  # their rows belong to tokens and positions


def check_changes(where: str, changes: Mapping[Any, Any], config: TrainConfig) -> None:
    """Raise ConfigError for changes of matrices that no model can have."""
    from nanochat.model.parameters import parameter_specs  # it needs NumPy, and `runs` does not

    known = {spec.name for spec in parameter_specs(config, 1, {})}
    for name, shape in changes.items():
        _check_change(where, name, shape, config.n_layer, known)


def _check_change(where: str, name: Any, shape: Any, layers: int, known: set[str]) -> None:
    """Raise ConfigError for one entry of `parameters` that no model can have."""
    matched = NAME.fullmatch(name) if isinstance(name, str) else None
    if matched is None:
        raise ConfigError(
            f"{where} must name matrices as layer0.mlp_gate or gate, got {shown(name)}"
        )
    if _FIXED.fullmatch(name):
        raise ConfigError(
            f"{where} must not change {name}, whose rows belong to tokens or positions; choose"
            " another name"
        )
    layer = matched["layer"]
    if layer is not None and int(layer) >= layers:
        raise ConfigError(f"{where} must name layers below n_layer {layers}, got {name}")
    if shape is None:
        if name not in known:
            raise ConfigError(f"{where} drops {name}, which the model does not have; leave it out")
        return
    is_pair = isinstance(shape, (tuple, list)) and len(shape) == 2
    if not is_pair or not all(_is_size(each) for each in shape):
        raise ConfigError(
            f"{where} must give {name} as (rows, columns), each a whole number between 1 and"
            f" {MOST_ROWS}, got {shown(shape)}"
        )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_ROWS
