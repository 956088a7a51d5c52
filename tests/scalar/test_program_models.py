"""Models from the literature, each a plain function. The compiler has no special case for any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scalar.program_models import PlainAdamW

import nanochat
from nanochat.errors import ProgramError
from nanochat.scalar.functions import cross_entropy, dot, linear
from nanochat.scalar.value import Matrix, Tape, Value

STEPS = 50
ADAM = {"lr": 0.02, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}


class Model:
    """A function of Values, its parameters, and the batch of every step."""

    tokens = inputs = 0

    def __init__(self) -> None:
        self.tape = Tape()
        self.parameters: list[Matrix | Value] = []
        self.generator = np.random.default_rng(5)

    def matrix(self, rows: int, cols: int, scale: float) -> Matrix:
        matrix = self.tape.matrix(rows, cols)
        matrix.values[:] = self.generator.normal(size=(rows, cols)) * scale
        self.parameters.append(matrix)
        return matrix

    def value(self, number: float) -> Value:
        self.parameters.append(self.tape.value(number))
        return self.parameters[-1]

    def loss(self, *arguments: Any) -> Any:
        raise NotImplementedError  # per model

    def batch(self, step: int) -> tuple[Any, Any]:
        """Return tokens and inputs, as step() takes them."""
        raise NotImplementedError  # per model

    def eager(self, tokens: Any, inputs: Any) -> Value:
        """Return the loss of the same batch on Values: the mean over documents of their means."""
        documents = (
            [None] if tokens is None else tokens if isinstance(tokens[0], list) else [tokens]
        )
        rows = [None] * len(documents) if inputs is None else np.atleast_2d(inputs)
        if tokens is None:
            documents = [None] * len(rows)
        losses = []
        for document, row in zip(documents, rows, strict=True):
            arguments = [] if document is None else [document]
            arguments += [] if row is None else [[self.tape.value(x) for x in row]]
            made = self.loss(*arguments)
            losses.append((1 / len(made)) * sum(made) if isinstance(made, list) else made)
        return losses[0] if len(losses) == 1 else (1 / len(losses)) * sum(losses)

    def read(self, name: str) -> np.ndarray:
        """Return the values ("data") or gradients ("grad") of all parameters, concatenated."""
        arrays = {"data": "values", "grad": "grads"}
        return np.concatenate(
            [
                getattr(p, arrays[name]).ravel() if isinstance(p, Matrix) else [getattr(p, name)]
                for p in self.parameters
            ]
        )

    def write(self, numbers: Sequence[float]) -> None:
        at = 0
        for p in self.parameters:
            if isinstance(p, Matrix):
                count = p.values.size
                p.values[:] = np.reshape(numbers[at : at + count], p.shape)
            else:
                count = 1
                p.data = float(numbers[at])
            at += count

    def zero_grad(self) -> None:
        for p in self.parameters:
            if isinstance(p, Matrix):
                p.zero_grad()
            else:
                p.grad = 0.0

    def program(self, **options: Any) -> Any:
        return nanochat.compile(
            self.loss,
            self.parameters,
            tokens=self.tokens,
            inputs=self.inputs,
            tape=self.tape,
            **options,
        )


def moons(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two half circles: (count, 2) points and labels of ±1."""
    label = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)
    angle = generator.uniform(0, math.pi, count)
    points = np.stack(
        [np.cos(angle) * label + (label < 0), np.sin(angle) * label + (label < 0) / 2], 1
    )
    return points + generator.normal(size=points.shape) * 0.1, label


class Mlp(Model):
    """A 2-16-16-1 network with a hinge loss on points that are constants of the program."""

    def __init__(self, activation: str = "relu", count: int = 100) -> None:
        super().__init__()
        self.activation = activation
        self.points, self.labels = moons(count, self.generator)
        self.weights = [
            self.matrix(16, 3, 0.5),
            self.matrix(16, 17, 0.25),
            self.matrix(1, 17, 0.25),
        ]

    def score(self, point: Sequence[Any]) -> Value:
        x = list(point)
        for depth, matrix in enumerate(self.weights):
            x = [dot(row[:-1], x) + row[-1] for row in matrix.rows()]
            if depth < 2:
                x = [h.relu() if self.activation == "relu" else h.tanh() for h in x]
        return x[0]

    def loss(self) -> Value:
        hinges = [
            (1 + -label * self.score(point)).relu()
            for point, label in zip(self.points.tolist(), self.labels.tolist(), strict=True)
        ]
        return sum(hinges) / len(hinges)

    def batch(self, step: int) -> tuple[Any, Any]:
        return None, None


class MlpOfInputs(Mlp):
    """The same network on inputs: a document is a point and its label."""

    inputs = 3

    def loss(self, inputs: list[Value]) -> Value:
        return (1 - inputs[2] * self.score(inputs[:2])).relu()

    def batch(self, step: int) -> tuple[Any, Any]:
        return None, np.column_stack([self.points, self.labels])


class Rnn(Model):
    """A tanh recurrence over characters: one loss per position, documents of any length."""

    tokens = 9
    WORDS = ("anna", "emma", "bob", "ada", "carl", "dan", "ella", "fay", "a", "isabella")

    def __init__(self) -> None:
        super().__init__()
        self.letters = ["", *sorted(set("".join(self.WORDS)))]
        size, hidden = len(self.letters), 8
        self.embedding = self.matrix(size, hidden, 0.3)
        self.recurrent = self.matrix(hidden, hidden, 0.3)
        self.head = self.matrix(size, hidden, 0.3)
        self.start = [self.value(0.1 * i) for i in range(hidden)]

    def loss(self, tokens: Sequence[Any]) -> list[Value]:
        state, losses = self.start, []
        for token, target in pairwise(tokens):
            mixed = linear(state, self.recurrent.rows())
            state = [(m + e).tanh() for m, e in zip(mixed, self.embedding.row(token), strict=True)]
            losses.append(cross_entropy(linear(state, self.head.rows()), target))
        return losses

    def encode(self, word: str) -> list[int]:
        return [0, *(self.letters.index(c) for c in word[: self.tokens - 2]), 0]

    def batch(self, step: int) -> tuple[Any, Any]:
        return [
            self.encode(self.WORDS[(step + i) % len(self.WORDS)]) for i in range(1 + step % 4)
        ], None


class RnnOneWord(Rnn):
    """The same model with one document per step."""

    def batch(self, step: int) -> tuple[Any, Any]:
        return self.encode(self.WORDS[step % len(self.WORDS)]), None


class Kalman(Model):
    """−log likelihood of a scalar Kalman filter (Kalman 1960), which learns log q, log r and a."""

    inputs = 12

    def __init__(self) -> None:
        super().__init__()
        self.log_q, self.log_r, self.a = self.value(0.3), self.value(-0.2), self.value(0.4)
        x, observed = 0.0, []
        for _ in range(self.inputs):
            x = 0.9 * x + self.generator.normal() * 0.3
            observed.append(x + self.generator.normal() * 0.5)
        self.observed = observed

    def loss(self, observations: list[Value]) -> list[Value]:
        q, r, a = self.log_q.exp(), self.log_r.exp(), self.a
        mean, variance = self.tape.value(0.0), self.tape.value(1.0)
        losses = []
        for y in observations:
            mean, variance = a * mean, a * a * variance + q
            innovation, total = y - mean, variance + r
            losses.append((total.log() + innovation**2 / total + math.log(2 * math.pi)) * 0.5)
            gain = variance / total
            mean, variance = mean + gain * innovation, (1 - gain) * variance
        return losses

    def batch(self, step: int) -> tuple[Any, Any]:
        return None, self.observed


MODELS: dict[str, Callable[[], Model]] = {
    "mlp-relu": Mlp,
    "mlp-tanh": lambda: Mlp("tanh"),
    "mlp-of-inputs": lambda: MlpOfInputs("tanh"),
    "rnn": Rnn,
    "rnn-one-word": RnnOneWord,
    "kalman": Kalman,
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))


def gradients_by_tape(model: Model, tokens: Any, inputs: Any) -> tuple[float, np.ndarray]:
    model.zero_grad()
    loss = model.eager(tokens, inputs)
    loss.backward()
    return loss.data, model.read("grad").copy()


@each_model
def test_gradients_agree_with_the_tape_and_central_differences(make: Callable[[], Model]) -> None:
    model = make()
    program = model.program()
    batch = model.batch(3)
    loss, grads = gradients_by_tape(model, *batch)
    assert program.grad(*batch) == pytest.approx(loss, rel=1e-13)
    got = model.read("grad").copy()
    assert np.abs(got - grads).max() <= 1e-13 * max(1.0, np.abs(grads).max())
    weights, h = model.read("data").copy(), 1e-6
    for i in model.generator.choice(len(weights), size=min(12, len(weights)), replace=False):
        moved = []
        for sign in (1, -1):
            there = weights.copy()
            there[i] += sign * h
            model.write(there)
            moved.append(program.loss(*batch))
        assert (moved[0] - moved[1]) / (2 * h) == pytest.approx(got[i], rel=1e-4, abs=1e-6)


@each_model
def test_fifty_steps_agree_with_the_tape_and_plain_adam(make: Callable[[], Model]) -> None:
    model, eager = make(), make()
    program = model.program()
    adam = PlainAdamW(len(eager.read("data")), **ADAM)
    losses = []
    for step in range(STEPS):
        batch = model.batch(step)
        losses.append(program.step(*batch, **ADAM))
        expected, grads = gradients_by_tape(eager, *batch)
        assert losses[-1] == pytest.approx(expected, rel=1e-9)
        eager.write(adam.step(eager.read("data").tolist(), grads.tolist()))
    assert model.read("data") == pytest.approx(eager.read("data"), rel=1e-9, abs=1e-9)
    first, last = losses[:10], losses[-10:]
    assert sum(last) < sum(first)


@each_model
def test_each_fast_step_from_equal_weights_agrees_with_the_tape(make: Callable[[], Model]) -> None:
    model = make()
    program = model.program()
    adam = PlainAdamW(len(model.read("data")), **ADAM)
    for step in range(STEPS):
        batch = model.batch(step)
        loss, grads = gradients_by_tape(model, *batch)
        before = model.read("data").copy()
        assert program.step(*batch, **ADAM) == pytest.approx(loss, rel=1e-12)
        # Adam divides by √v: near v = 0 the rounding of a gradient is not small compared with lr.
        expected = adam.step(before.tolist(), grads.tolist())
        steady = np.sqrt(adam.v) > 1e-6
        assert np.abs(model.read("data") - expected)[steady].max() <= 1e-12 * max(
            1, np.abs(before).max()
        )


# One document per step: the documents of a batch are added lane by lane, in a different order.
@pytest.mark.parametrize("name", ["mlp-relu", "mlp-tanh", "rnn-one-word", "kalman"])
def test_exact_steps_have_the_bits_of_the_tape(name: str) -> None:
    model, eager = MODELS[name](), MODELS[name]()
    try:
        program = model.program(numerics="exact")
    except ProgramError as error:
        assert "order" in str(error)
        return
    adam = PlainAdamW(len(eager.read("data")), **ADAM)
    for step in range(STEPS):
        batch = model.batch(step)
        expected, grads = gradients_by_tape(eager, *batch)
        assert program.step(*batch, **ADAM) == expected
        eager.write(adam.step(eager.read("data").tolist(), grads.tolist()))
        assert np.array_equal(model.read("data"), eager.read("data"))
