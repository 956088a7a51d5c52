"""Fixtures for the tests of commands: a tiny run, on either engine."""

from __future__ import annotations

import pytest

import nanochat
from nanochat.config.options import TrainConfig


@pytest.fixture(params=["scalar", "tensor"])
def mode(request) -> str:
    return request.param


@pytest.fixture
def run(folder, tiny):
    """Train in the working folder: `run(out="a", steps=3)`."""

    def train(model_kind="bigram", **options):
        if options.get("mode") == "tensor":
            options.setdefault("threads", 1)
        return nanochat.train(TrainConfig(**tiny(model_kind, **options)))

    return train
