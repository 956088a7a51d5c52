"""Program.to_c(): the file compiles by itself and trains to the losses of Program.step."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import nanochat
from nanochat._scalar import Token
from nanochat.config.options import TrainConfig
from nanochat.scalar.engine import ScalarEngine
from nanochat.scalar.functions import cross_entropy, linear
from nanochat.scalar.program import Program
from nanochat.scalar.value import Tape, Value

STEPS = 20
LR = 0.01  # LEARNING_RATE of the file
VOCAB = 27
BLOCK = 16
FLAGS = ("-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the path")

Run = Callable[[Program, str], list[float]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Compile a program's file with the system's C compiler and return the losses it prints."""

    def run(program: Program, documents: str) -> list[float]:
        source, binary, text = tmp_path / "model.c", tmp_path / "model", tmp_path / "documents.txt"
        source.write_text(program.to_c())
        text.write_text(documents)
        assert COMPILER is not None
        subprocess.run([COMPILER, *FLAGS, source, "-o", binary, "-lm"], check=True)
        result = subprocess.run(
            [binary, text, str(STEPS)], check=True, capture_output=True, text=True
        )
        lines = [line.split() for line in result.stdout.splitlines()]
        assert [line[:3] for line in lines] == [["step", str(i + 1), "loss"] for i in range(STEPS)]
        return [float(line[3]) for line in lines]

    return run


def lines_of(documents: Sequence[Sequence[float]], mark: str = "") -> str:
    return "".join(f"{mark}{' '.join(map(repr, document))}\n" for document in documents)


def texts(vocab: int, most: int) -> list[list[int]]:
    """Return documents of 2 … most tokens, including both extremes."""
    random = Random(7)
    lengths = [2, most, *(random.randint(2, most) for _ in range(6))]
    return [[random.randrange(vocab) for _ in range(length)] for length in lengths]


def microgpt(numerics: str, dtype: str = "float64", **options_of: int | str) -> Program:
    """Record the model of the scalar engine for documents of up to BLOCK + 1 tokens."""
    config = TrainConfig(mode="scalar", preset="microgpt", **options_of)  # type: ignore[arg-type]  # each option its type
    engine = ScalarEngine(config, VOCAB, dtype=dtype)

    def losses(tokens: list[Token]) -> list[Value]:
        cache = engine.model.new_cache()
        found = []
        for position in range(len(tokens) - 1):
            logits = engine.model.logits(tokens[position], position, cache)
            found.append(cross_entropy(logits, tokens[position + 1]))
        return found

    return nanochat.compile(
        losses, engine.matrices, tokens=BLOCK + 1, numerics=numerics, dtype=dtype, tape=engine.tape
    )


def rnn(numerics: str) -> Program:
    """Record h ← tanh(embedding + W h) with logits U h."""
    vocab, width, length = 7, 5, 6
    tape = Tape()
    generator = np.random.default_rng(3)
    embedding, hidden, out = (
        tape.matrix(*s) for s in ((vocab, width), (width, width), (vocab, width))
    )
    for matrix in (embedding, hidden, out):
        matrix.values[:] = generator.normal(0, 0.3, matrix.values.shape)
    start = [tape.value(0.1 * i) for i in range(width)]

    def losses(tokens: list[Token]) -> list[Value]:
        h, found = start, []
        for token, target in pairwise(tokens):
            added = linear(h, hidden.rows())
            h = [(x + y).tanh() for x, y in zip(embedding.row(token), added, strict=True)]
            found.append(cross_entropy(linear(h, out.rows()), target))
        return found

    parameters = [embedding, hidden, out, start]
    return nanochat.compile(losses, parameters, tokens=length + 1, numerics=numerics, tape=tape)


def neuron(numerics: str) -> Program:
    tape = Tape()
    w = [tape.value(0.1 * i - 0.5) for i in range(8)]
    return nanochat.compile(
        lambda x: (sum(wi * xi for wi, xi in zip(w, x, strict=True)) - 1.0) ** 2, w,
        inputs=8, numerics=numerics, tape=tape,
    )  # fmt: skip


def losses_by_step(program: Program, documents: Sequence[Sequence[int]]) -> list[float]:
    return [program.step(list(documents[i % len(documents)]), lr=LR) for i in range(STEPS)]


def test_exact_microgpt_trains_to_the_same_bits(run: Run) -> None:
    program, documents = microgpt("exact"), texts(VOCAB, BLOCK + 1)
    printed = run(program, lines_of(documents))
    assert [x.hex() for x in printed] == [x.hex() for x in losses_by_step(program, documents)]


def test_fast_microgpt_trains_to_the_losses_of_step(run: Run) -> None:
    program, documents = microgpt("fast"), texts(VOCAB, BLOCK + 1)
    printed = run(program, lines_of(documents))
    np.testing.assert_allclose(printed, losses_by_step(program, documents), rtol=1e-12)


def test_float32_microgpt_trains_in_float(run: Run) -> None:
    program, documents = microgpt("fast", "float32"), texts(VOCAB, BLOCK + 1)
    assert "static float p[PARAMETERS]" in program.to_c()
    printed = run(program, lines_of(documents))
    np.testing.assert_allclose(printed, losses_by_step(program, documents), rtol=1e-5)


def test_recurrent_network_trains_to_the_losses_of_step(run: Run) -> None:
    program, documents = rnn("fast"), texts(7, 7)
    printed = run(program, lines_of(documents))
    np.testing.assert_allclose(printed, losses_by_step(program, documents), rtol=1e-12)


def test_inputs_follow_a_bar(run: Run) -> None:
    program = neuron("exact")
    rows = np.random.default_rng(1).normal(size=(3, 8)).tolist()
    printed = run(program, lines_of(rows, "| "))
    stepped = [program.step(inputs=rows[i % 3], lr=LR) for i in range(STEPS)]
    assert [x.hex() for x in printed] == [x.hex() for x in stepped]


def test_file_of_a_trained_program_continues_training(run: Run) -> None:
    program = neuron("exact")
    row = [0.25] * 8
    for _ in range(5):
        program.step(inputs=row, lr=LR)
    printed = run(program, lines_of([row], "| "))
    stepped = [program.step(inputs=row, lr=LR) for _ in range(STEPS)]
    assert [x.hex() for x in printed] == [x.hex() for x in stepped]


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_microgpt_is_short_enough_to_read(numerics: str) -> None:
    source = microgpt(numerics).to_c().splitlines()
    values = range(source.index("static double p[PARAMETERS] = {"), source.index("};"))
    assert len(source) - len(values) < 1000
    assert max(map(len, source)) <= 120


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("1 2 27\n", "out of range"),
        ("1\n", "too few tokens"),
        ("0 " * 18 + "\n", "too many tokens"),
    ],
)
def test_file_refuses_a_document_that_step_refuses(run: Run, document: str, complaint: str) -> None:
    program = microgpt("fast")
    with pytest.raises(ValueError, match="token"):
        program.step([int(x) for x in document.split()], lr=LR)
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(program, document)
    assert complaint in error.value.stderr


def test_every_excerpt_of_the_page_is_the_output_of_its_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "program.md").read_text()
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    space: dict[str, Any] = {}
    for kind, text in fences:
        if kind == "python":
            exec(text, space)
    explained = (space["neuron"].explain() + space["layer"].explain()).splitlines()
    quoted = [line for kind, text in fences if kind == "" for line in text.splitlines()]
    machine_code = re.compile(r"v[a-z0-9]+ +[(%]| +#")
    assert [x for x in quoted if x not in explained and not machine_code.match(x)] == []
    parts = [part for kind, text in fences if kind == "c" for part in text.split("\n\n")]
    assert [part for part in parts if part.strip() not in space["source"]] == []
