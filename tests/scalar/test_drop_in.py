"""Value replaces the Value class of micrograd and microgpt.py: their scripts run unchanged.

What they write is kept here: parameters as lists of Values, `sum(generator, start)`, NumPy scalars
as data and on the left of an operator, `p.grad = 0`, `p.data -= …`.
"""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from nonempty import nonempty
from oracles.plain_gpt import Adam, document_loss
from oracles.plain_value import PlainValue

from nanochat import Value

BOTH = pytest.mark.parametrize("steps", [3, pytest.param(60, marks=pytest.mark.long)])


def bits(numbers) -> list[str]:
    return [float(number).hex() for number in numbers]


def train_microgpt(make, steps):
    """Train microgpt.py's model with the class `make`; return losses, gradients and weights."""
    draw = random.Random(7)
    shapes = {
        "wte": (5, 8), "wpe": (6, 8), "lm_head": (5, 8),
        "layer0.attn_wq": (8, 8), "layer0.attn_wk": (8, 8), "layer0.attn_wv": (8, 8),
        "layer0.attn_wo": (8, 8), "layer0.mlp_fc1": (32, 8), "layer0.mlp_fc2": (8, 32),
    }  # fmt: skip
    weights = {
        name: [[make(draw.gauss(0, 0.2)) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in shapes.items()
    }
    parameters = [p for matrix in weights.values() for row in matrix for p in row]
    adam = Adam(parameters, 0.85, 0.99, 1e-8)
    losses, grads = [], []
    for step in range(steps):
        tokens = [draw.randrange(5) for _ in range(draw.randint(2, 7))]
        loss = document_loss(weights, tokens[:-1], tokens[1:])
        loss.backward()
        losses.append(loss.data)
        grads += [p.grad for p in parameters]
        adam.step(step, 0.01 * (1 - step / steps))
    return losses, grads, [p.data for p in parameters]


@BOTH
def test_microgpt_over_value_has_the_bits_of_microgpt_over_its_own_class(steps):
    ours, theirs = train_microgpt(Value, steps), train_microgpt(PlainValue, steps)
    for a, b in nonempty(zip(ours, theirs, strict=True)):
        assert bits(a) == bits(b)


class Network:
    """Layers of neurons as in micrograd's nn.py: one random number per weight, biases 0."""

    def __init__(self, make, sizes):
        draw = random.Random(1337)
        self.layers = [
            [([make(draw.uniform(-1, 1)) for _ in range(n)], make(0)) for _ in range(m)]
            for n, m in pairwise(sizes)
        ]

    def parameters(self):
        return [p for layer in self.layers for w, b in layer for p in [*w, b]]

    def __call__(self, x):
        for depth, layer in enumerate(self.layers, start=1):
            x = [sum((wi * xi for wi, xi in zip(w, x, strict=True)), b) for w, b in layer]
            if depth < len(self.layers):
                x = [unit.relu() for unit in x]
        return x[0]


def train_margin(make, steps):
    """Run a small version of micrograd's demo: hinge loss, L2 penalty, gradient descent."""
    generator = np.random.default_rng(3)
    points = generator.normal(size=(12, 2))
    labels = np.where(points[:, 0] * points[:, 1] > 0, 1, -1)  # np.int64, on the left of a Value
    model = Network(make, [2, 6, 1])
    losses = []
    for step in range(steps):
        scores = [model(list(map(make, row))) for row in points]
        hinges = [(1 + -y * score).relu() for y, score in zip(labels, scores, strict=True)]
        penalty = 1e-4 * sum(p * p for p in model.parameters())
        loss = sum(hinges) * (1.0 / len(hinges)) + penalty
        for p in model.parameters():
            p.grad = 0
        loss.backward()
        losses.append(loss.data)
        for p in model.parameters():
            p.data -= (1.0 - 0.9 * step / steps) * p.grad
    return losses, [p.grad for p in model.parameters()], [p.data for p in model.parameters()]


@BOTH
def test_micrograds_demo_over_value_has_the_bits_of_the_oracle(steps):
    ours, theirs = train_margin(Value, steps), train_margin(PlainValue, steps)
    assert theirs[0][-1] < theirs[0][0]
    for a, b in nonempty(zip(ours, theirs, strict=True)):
        assert bits(a) == bits(b)


def test_numpy_scalars_are_data_and_operands_on_either_side():
    for number in (np.float64(0.5), np.float32(0.5), np.int64(2), np.int8(2)):
        value = Value(number)
        assert type(value.data) is float and value.data == float(number)
        for result in (number * value, value * number):
            assert type(result) is Value and result.data == float(number) ** 2
        assert type(number + value) is Value and type(-number * value) is Value


def test_sum_takes_a_value_as_its_start():
    bias, terms = Value(0.5), [Value(1.0), Value(2.0)]
    total = sum((2 * term for term in terms), bias)
    total.backward()
    assert total.data == 6.5
    assert [bias.grad, *(term.grad for term in terms)] == [1.0, 2.0, 2.0]


def test_augmented_assignment_makes_a_new_node_and_leaves_the_old_one():
    a = Value(3.0)
    c = a
    c += c + 1
    c *= 2
    c -= 1
    c /= 4
    c **= 2
    c.backward()
    assert a.data == 3.0 and c.data == 10.5625
    assert a.grad == 2 * 3.25 * (2 * 2 / 4)
