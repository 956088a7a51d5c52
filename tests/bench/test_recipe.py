"""The notebooks of the recipe: each row is a valid config."""

from __future__ import annotations

from typing import Any

import pytest

from bench.choices import recipe
from nanochat.config.options import TrainConfig

ROWS = [
    (
        notebook,
        name,
        recipe.changed({"preset": "nano", "mode": "tensor", **around}, {**change, "steps": 300}),
    )
    for notebook, (around, changes) in recipe.NOTEBOOKS.items()
    for name, change in changes
]


@pytest.mark.parametrize("options", [row[2] for row in ROWS], ids=[f"{a}-{b}" for a, b, _ in ROWS])
def test_each_row_of_a_notebook_is_a_config(options: dict[str, Any]) -> None:
    config = TrainConfig(**options)
    assert {name: getattr(config, name) for name in options} == options
