"""Optimizer steps: bit-identical to the plain formula, equal to torch.optim, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nonempty import nonempty

from nanochat._scalar import Tape, adamw_step, grad_sum_of_squares, sgd_step

SHAPE = (40, 50)
LR, BETA1, BETA2, EPS = 0.01, 0.85, 0.99, 1e-8


def filled(dtype="float64"):
    generator = np.random.default_rng(1)
    matrix = Tape(dtype).matrix(*SHAPE)
    matrix.values[:] = generator.normal(size=SHAPE).astype(dtype)
    return matrix, generator


def plain_adam(p, g, m, v, lr, beta1, beta2, eps, step):
    """Return microgpt.py's update of one parameter, in Python floats."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    return p - lr * m_hat / (v_hat**0.5 + eps), m, v


def test_adamw_without_decay_has_microgpts_bits():
    matrix, generator = filled()
    m, v = np.zeros(SHAPE), np.zeros(SHAPE)
    state = [(float(p), 0.0, 0.0) for p in matrix.values.flat]
    for step in range(1, 8):
        grads = generator.normal(size=SHAPE) * 10.0 ** generator.integers(-6, 3, size=SHAPE)
        matrix.grads[:] = grads
        lr = LR * (1 - step / 10)
        adamw_step(matrix, m, v, lr, BETA1, BETA2, EPS, 0.0, step)
        state = [
            plain_adam(p, float(g), a, b, lr, BETA1, BETA2, EPS, step)
            for (p, a, b), g in zip(state, grads.flat, strict=True)
        ]
        expected = np.array(state)
        for actual, column in ((matrix.values, 0), (m, 1), (v, 2)):
            assert actual.tobytes() == expected[:, column].tobytes()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_agrees_with_torch(weight_decay):
    matrix, generator = filled()
    m, v = np.zeros(SHAPE), np.zeros(SHAPE)
    parameter = torch.nn.Parameter(torch.tensor(matrix.values.copy()))
    optimizer = torch.optim.AdamW(
        [parameter], lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=weight_decay
    )
    for step in range(1, 20):
        matrix.grads[:] = generator.normal(size=SHAPE)
        parameter.grad = torch.tensor(matrix.grads.copy())
        adamw_step(matrix, m, v, LR, BETA1, BETA2, EPS, weight_decay, step)
        optimizer.step()
    np.testing.assert_allclose(matrix.values, parameter.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_agrees_with_torch(momentum):
    matrix, generator = filled()
    buffer = np.full(SHAPE, np.nan)  # the first step must not read it
    parameter = torch.nn.Parameter(torch.tensor(matrix.values.copy()))
    optimizer = torch.optim.SGD([parameter], lr=LR, momentum=momentum)
    for step in range(20):
        matrix.grads[:] = generator.normal(size=SHAPE)
        parameter.grad = torch.tensor(matrix.grads.copy())
        sgd_step(matrix, buffer, LR, momentum, 0.0, step == 0)
        optimizer.step()
    np.testing.assert_allclose(matrix.values, parameter.detach().numpy(), rtol=1e-12, atol=1e-13)


def test_sgd_has_the_plain_formulas_bits():
    matrix, generator = filled()
    value, buffer = matrix.values.copy(), np.zeros(SHAPE)
    expected_buffer = np.zeros(SHAPE)
    for step in range(5):
        grads = generator.normal(size=SHAPE)
        matrix.grads[:] = grads
        sgd_step(matrix, buffer, LR, 0.9, 0.1, step == 0)
        expected_buffer = grads if step == 0 else 0.9 * expected_buffer + grads
        value = value * (1 - LR * 0.1) - LR * expected_buffer
        assert matrix.values.tobytes() == value.tobytes()
        assert buffer.tobytes() == expected_buffer.tobytes()


def test_grad_scale_multiplies_the_gradient_first():
    scaled, generator = filled()
    plain, _ = filled()
    grads = generator.normal(size=SHAPE)
    scaled.grads[:], plain.grads[:] = grads, grads * 0.3
    states = [np.zeros(SHAPE) for _ in range(4)]
    adamw_step(scaled, *states[:2], LR, BETA1, BETA2, EPS, 0.1, 1, 0.3)
    adamw_step(plain, *states[2:], LR, BETA1, BETA2, EPS, 0.1, 1, 1.0)
    assert scaled.values.tobytes() == plain.values.tobytes()
    sgd_step(scaled, states[0], LR, 0.9, 0.1, True, 0.3)
    sgd_step(plain, states[2], LR, 0.9, 0.1, True)
    assert scaled.values.tobytes() == plain.values.tobytes()
    assert scaled.grads.tobytes() == grads.tobytes()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_float32_tape_rounds_parameters_and_state_after_the_update(optimizer):
    results = {}
    for dtype in ("float32", "float64"):
        matrix, generator = filled("float32")
        if dtype == "float64":
            wide = Tape("float64").matrix(*SHAPE)
            wide.values[:] = matrix.values
            matrix = wide
        matrix.grads[:] = generator.normal(size=SHAPE).astype(np.float32)
        m, v = np.zeros(SHAPE), np.zeros(SHAPE)
        if optimizer == "adamw":
            adamw_step(matrix, m, v, LR, BETA1, BETA2, EPS, 0.1, 1)
        else:
            sgd_step(matrix, m, LR, 0.9, 0.1, True)
        results[dtype] = (matrix.values.copy(), m, v)
    for narrow, exact in nonempty(zip(results["float32"], results["float64"], strict=True)):
        assert narrow.tobytes() == exact.astype(np.float32).astype(np.float64).tobytes()


def test_state_of_the_wrong_size_names_the_sizes():
    matrix = Tape().matrix(2, 3)
    with pytest.raises(ValueError, match="m has 5 elements, but the matrix has 6 parameters"):
        adamw_step(matrix, np.zeros(5), np.zeros(6), LR, BETA1, BETA2, EPS, 0.0, 1)
    with pytest.raises(ValueError, match="v has 7 elements, but the matrix has 6"):
        adamw_step(matrix, np.zeros(6), np.zeros(7), LR, BETA1, BETA2, EPS, 0.0, 1)
    with pytest.raises(ValueError, match="buf has 4 elements, but the matrix has 6"):
        sgd_step(matrix, np.zeros(4), LR, 0.9, 0.0, True)


def test_a_state_that_would_be_copied_or_is_read_only_is_refused():
    matrix = Tape().matrix(2, 3)
    for state in (np.zeros(6, np.float32), np.zeros((6, 2))[:, 0], [0.0] * 6):
        with pytest.raises(TypeError):
            sgd_step(matrix, state, LR, 0.9, 0.0, True)
    frozen = np.zeros(6)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="buf is read-only"):
        sgd_step(matrix, frozen, LR, 0.9, 0.0, True)


def test_step_numbers_count_from_one():
    matrix = Tape().matrix(1, 1)
    with pytest.raises(ValueError, match="t counts steps from 1, got 0"):
        adamw_step(matrix, np.zeros(1), np.zeros(1), LR, BETA1, BETA2, EPS, 0.0, 0)


def test_sum_of_squares_adds_the_gradients_in_order():
    matrix, generator = filled()
    matrix.grads[:] = generator.normal(size=SHAPE)
    total = 0.0
    for g in matrix.grads.flat:
        total += float(g) * float(g)
    assert grad_sum_of_squares(matrix) == total
