"""Programs of the Python tests are checked after every compiler pass."""

from __future__ import annotations

import pytest

import nanochat
from nanochat.scalar.program import Program
from nanochat.scalar.value import Tape


def exponential() -> Program:
    tape = Tape()
    weight = tape.value(0.5)
    return nanochat.compile(lambda: weight.exp(), [weight], tape=tape)


def test_the_programs_of_the_tests_are_verified() -> None:
    assert exponential().core.verified is True


def test_verification_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = exponential()
    monkeypatch.delenv("NCLAB_VERIFY")
    plain = exponential()
    assert plain.explain() == verified.explain()
    assert plain.grad() == verified.grad()
