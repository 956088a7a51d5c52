"""Powers in programs at zero: x**0 is 1 with gradient 0, as on the tape and in torch."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import nanochat
from nanochat.scalar.value import Tape, Value

COEFFICIENTS = (1.0, 2.0, 3.0, 0.5)
POINTS = (0.0, -0.0, 0.5, -1.5)
NUMERICS = [("exact", "float64"), ("fast", "float64"), ("fast", "float32")]


def polynomial(x: Any) -> Any:
    return sum(c * x**i for i, c in enumerate(COEFFICIENTS))


def by_torch(x: float) -> tuple[float, float]:
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = polynomial(tensor)
    value.backward()
    assert tensor.grad is not None
    return value.item(), tensor.grad.item()


@pytest.mark.parametrize(("numerics", "dtype"), NUMERICS)
@pytest.mark.parametrize("point", POINTS)
def test_a_polynomial_has_torchs_value_and_derivative(
    numerics: str, dtype: str, point: float
) -> None:
    x = Value(point)
    program = nanochat.compile(lambda: polynomial(x) * 1.0, x, numerics=numerics, dtype=dtype)
    value, derivative = by_torch(point)
    assert program.grad() == pytest.approx(value, rel=1e-6)
    assert x.grad == pytest.approx(derivative, rel=1e-6)


@pytest.mark.parametrize(("numerics", "dtype"), NUMERICS)
def test_only_the_power_zero_of_a_row_of_zeros_has_no_gradient(numerics: str, dtype: str) -> None:
    tape = Tape()
    matrix = tape.matrix(1, 40)

    def loss() -> Value:
        row = matrix.row(0)
        return sum((x**0 + x**1) * (i + 1.0) for i, x in enumerate(row))

    program = nanochat.compile(loss, matrix, numerics=numerics, dtype=dtype, tape=tape)
    assert program.grad() == sum(range(1, 41))
    assert matrix.grads.tolist() == [[i + 1.0 for i in range(40)]]


def test_the_log_of_a_power_zero_of_an_overflow_is_zero() -> None:
    x = Value(1000.0)
    program = nanochat.compile(lambda: (x.exp() ** 0).log() + x * 2.0, x)
    assert program.loss() == 2000.0


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_the_c_file_trains_from_zero_as_the_program_does(tmp_path: Path, numerics: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on the path")
    matrix = nanochat.Matrix([[0.0]])
    program = nanochat.compile(
        lambda: polynomial(matrix.row(0)[0]) * 4.0, matrix, numerics=numerics
    )
    (tmp_path / "model.c").write_text(program.to_c())
    subprocess.run(
        [compiler, "-std=c99", "-O2", "-ffp-contract=off", "model.c", "-o", "model", "-lm"],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run(
        ["./model", "-", "5"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    by_c = [float(line.split()[3]) for line in done.stdout.splitlines()]
    by_program = [program.step(lr=0.01) for _ in range(5)]
    assert by_program[0] == 4.0 and by_program[-1] < 4.0
    assert by_c == pytest.approx(by_program, rel=1e-5)
