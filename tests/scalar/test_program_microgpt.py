"""microgpt's model as a program: bit-identical to plain Python, step by step, on names of all lengths."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from oracles.plain_gpt import Adam, document_loss
from oracles.plain_value import PlainValue
from scalar.program_models import PlainAdamW

import nanochat
from nanochat.config.options import TrainConfig
from nanochat.data.batches import make_batcher
from nanochat.data.corpus import load_corpus
from nanochat.data.documents import encode_documents
from nanochat.data.tokenizer import build_tokenizer
from nanochat.model.parameters import initial_weights
from nanochat.scalar.functions import cross_entropy
from nanochat.scalar.minigpt import MiniGPT
from nanochat.scalar.program import Program
from nanochat.scalar.value import Matrix, Tape, Value

LONG_STEPS = 1000
PLAIN_STEPS = pytest.mark.parametrize("steps", [12, pytest.param(60, marks=pytest.mark.long)])


class Microgpt:
    """The model, its program, and its training names in microgpt's order."""

    def __init__(self, **options: Any) -> None:
        self.config = TrainConfig(mode="scalar", preset="microgpt")
        texts = list(load_corpus("names").documents)
        tokenizer = build_tokenizer("char", texts)
        self.batcher = make_batcher(
            "documents", encode_documents(tokenizer, texts), batch_size=1,
            block_size=self.config.block_size, seed=self.config.seed,
        )  # fmt: skip
        self.weights = initial_weights(self.config, tokenizer.vocab_size)
        self.tape = Tape()
        self.matrices: dict[str, Matrix] = {}
        for name, weight in self.weights.items():
            self.matrices[name] = self.tape.matrix(*np.shape(weight))
            self.matrices[name].values[:] = weight
        self.model = MiniGPT(self.config, self.matrices)
        self.program: Program = nanochat.compile(
            self.losses, self.matrices, tokens=self.config.block_size + 1, tape=self.tape, **options
        )
        self.adam = {
            "beta1": self.config.beta1, "beta2": self.config.beta2, "eps": self.config.eps, "weight_decay": 0.0,
        }  # fmt: skip

    def losses(self, tokens: list[Any]) -> list[Value]:
        cache = self.model.new_cache()
        return [
            cross_entropy(self.model.logits(token, position, cache), target)
            for position, (token, target) in enumerate(pairwise(tokens))
        ]

    def document(self, step: int) -> list[int]:
        (batch,) = self.batcher.step(step)
        return [*batch.inputs[0].tolist(), int(batch.targets[0][-1])]

    def lr(self, step: int) -> float:
        return 0.01 * (1 - step / self.config.steps)

    def step(self, step: int) -> float:
        return self.program.step(self.document(step), lr=self.lr(step), **self.adam)


@PLAIN_STEPS
def test_losses_of_an_exact_program_are_bit_identical_to_plain_python(steps: int) -> None:
    ours = Microgpt(numerics="exact")
    weights = {
        name: [[PlainValue(float(x)) for x in row] for row in matrix]
        for name, matrix in ours.weights.items()
    }
    parameters = [p for matrix in weights.values() for row in matrix for p in row]
    adam = Adam(parameters, ours.adam["beta1"], ours.adam["beta2"], ours.adam["eps"])
    lengths, targets = set(), set()
    for step in range(steps):
        document = ours.document(step)
        lengths.add(len(document))
        targets.update(document[1:])
        loss = document_loss(weights, document[:-1], document[1:])
        loss.backward()
        adam.step(step, ours.lr(step))
        assert ours.step(step).hex() == loss.data.hex(), step
    for name, matrix in ours.matrices.items():
        assert np.array_equal(matrix.values, [[p.data for p in row] for row in weights[name]]), name
    assert len(lengths) >= 5
    assert len(targets) >= 15


def eager_walk(ours: Microgpt, steps: int) -> list[float]:
    """Run the same steps with backward() on Values and Adam in plain Python."""
    count = sum(m.values.size for m in ours.matrices.values())
    adam = PlainAdamW(count, lr=0.0, **ours.adam)
    losses = []
    for step in range(steps):
        for matrix in ours.matrices.values():
            matrix.zero_grad()
        terms = ours.losses(ours.document(step))
        loss = (1 / len(terms)) * sum(terms)
        loss.backward()
        losses.append(loss.data)
        adam.lr = ours.lr(step)
        values = [x for m in ours.matrices.values() for x in m.values.ravel().tolist()]
        grads = [x for m in ours.matrices.values() for x in m.grads.ravel().tolist()]
        made = iter(adam.step(values, grads))
        for matrix in ours.matrices.values():
            matrix.values[:] = np.reshape(
                [next(made) for _ in range(matrix.values.size)], matrix.shape
            )
    return losses


@pytest.mark.long
def test_exact_program_has_the_bits_of_the_tape_for_a_thousand_steps() -> None:
    ours, eager = Microgpt(numerics="exact"), Microgpt(numerics="exact")
    assert [ours.step(step) for step in range(LONG_STEPS)] == eager_walk(eager, LONG_STEPS)
    for name in ours.matrices:
        assert np.array_equal(ours.matrices[name].values, eager.matrices[name].values), name


def test_fast_program_stays_close_to_the_tape() -> None:
    ours, eager = Microgpt(), Microgpt()
    got, expected = [ours.step(step) for step in range(50)], eager_walk(eager, 50)
    assert got == pytest.approx(expected, rel=1e-9)


def test_float32_program_stays_close_to_the_tape() -> None:
    ours, eager = Microgpt(dtype="float32"), Microgpt()
    got, expected = [ours.step(step) for step in range(20)], eager_walk(eager, 20)
    assert got == pytest.approx(expected, rel=1e-3)


def test_every_target_at_every_length_has_the_bits_of_the_tape() -> None:
    ours = Microgpt(numerics="exact")
    generator = np.random.default_rng(2)
    vocab = ours.matrices["wte"].shape[0]
    for length in range(1, ours.config.block_size + 1):
        document = generator.integers(0, vocab, length + 1).tolist()
        for matrix in ours.matrices.values():
            matrix.zero_grad()
        terms = ours.losses(document)
        loss = (1 / len(terms)) * sum(terms)
        loss.backward()
        expected = {name: matrix.grads.copy() for name, matrix in ours.matrices.items()}
        assert ours.program.grad(document) == loss.data
        for name, matrix in ours.matrices.items():
            assert np.array_equal(matrix.grads, expected[name]), (length, name)
