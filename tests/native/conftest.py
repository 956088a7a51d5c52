"""Load the kernels that the environment names before any test runs."""

from __future__ import annotations

import pytest

from nanochat import native


@pytest.fixture(scope="session", autouse=True)
def _chosen_kernels() -> None:
    """Choose the instruction set before a fixture removes NCLAB_SIMD from the environment."""
    native.cpu().nck_target()
