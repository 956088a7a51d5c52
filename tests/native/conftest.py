"""The build and the instruction set that the environment names are chosen before any test runs."""

from __future__ import annotations

import pytest

from nanochat import native


@pytest.fixture(scope="session", autouse=True)
def _chosen_kernels() -> None:
    """Before the tests' environment is cleaned of NCLAB_SIMD."""
    native.cpu().nck_target()
