"""Random functions and sequence models, and a plain AdamW, shared by the tests of programs.

A recipe is a random function as data: a list of steps over vectors of scalars, which runs on
Values, on Bounds (error_bound.py), or on what a compiler records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scalar.error_bound import Bound

from nanochat.scalar.value import Matrix, Tape, Value, detached_max, select


class OnTape:
    """The operations of a recipe that are not arithmetic, on Values (eager or recorded)."""

    def __init__(self, tape: Tape) -> None:
        self.constant: Callable[[float], Any] = tape.value
        self.select: Callable[..., Any] = select

    @staticmethod
    def largest(values: Sequence[Value]) -> Any:
        return detached_max(values)

    @staticmethod
    def row(matrix: Matrix, token: Any) -> list[Value]:
        return matrix.row(token)


class OnBounds:
    """The same on Bounds; a matrix is a list of lists."""

    constant = Bound

    @staticmethod
    def select(values: Sequence[Bound], token: int) -> Bound:
        return values[token]

    @staticmethod
    def largest(values: Sequence[Bound]) -> Bound:
        return Bound(max(v.data for v in values), max(v.error for v in values))

    @staticmethod
    def row(matrix: Sequence[Sequence[Bound]], token: int) -> list[Bound]:
        return list(matrix[token])


# name → function
UNARY: dict[str, Callable[[Any], Any]] = {
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "relu": lambda x: x.relu(),
    "tanh": lambda x: x.tanh(),
    "neg": lambda x: -x,
    "inverse": lambda x: 1 / x,
    "safe_exp": lambda x: x.tanh().exp(),
    "safe_log": lambda x: (x.tanh() + 1.5).log(),
    "safe_inverse": lambda x: 1.0 / (x.tanh() + 2.0),
    "safe_root": lambda x: (2.0 + x.tanh()) ** 0.5,
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}
BY_NUMBER: dict[str, Callable[[Any, float], Any]] = {
    "x+c": lambda x, c: x + c,
    "c+x": lambda x, c: c + x,
    "x-c": lambda x, c: x - c,
    "c-x": lambda x, c: c - x,
    "x*c": lambda x, c: x * c,
    "c*x": lambda x, c: c * x,
    "x/c": lambda x, c: x / c,
    "c/x": lambda x, c: c / x,
}
NUMBERS = (2.0, -1.0, 0.5, 1.0, 0.0, -0.0, 3, 0.1, -2.25)
POWERS = (2, 3, -1, 0.5, -0.5, 1, 0, 1.5)
SAFE = ("tanh", "neg", "safe_exp", "safe_log", "safe_inverse", "safe_root", "relu")

Step = tuple[Any, ...]


def run_step(
    step: Step, vectors: list[list[Any]], matrices: Sequence[Any], on: Any, tokens: Any
) -> list[Any]:
    """Return the vector that one step computes from the vectors before it."""
    name, *rest = step
    if name in UNARY:
        return [UNARY[name](x) for x in vectors[rest[0]]]
    if name in BINARY:
        a, b = vectors[rest[0]], vectors[rest[1]]
        if len(b) > len(a) and name in ("add", "mul"):
            return [BINARY[name](a[i % len(a)], x) for i, x in enumerate(b)]
        return [BINARY[name](x, b[i % len(b)]) for i, x in enumerate(a)]
    if name in BY_NUMBER:
        return [BY_NUMBER[name](x, rest[1]) for x in vectors[rest[0]]]
    if name == "pow":
        return [x ** rest[1] for x in vectors[rest[0]]]
    if name == "sum":
        return [sum(vectors[rest[0]])]
    if name == "plain_sum":  # does not start from 0
        total, *others = vectors[rest[0]]
        for x in others:
            total = total + x
        return [total]
    if name == "right_sum":  # a + (b + (c + d))
        *others, total = vectors[rest[0]]
        for x in reversed(others):
            total = x + total
        return [total]
    if name == "dot":
        return [sum(a * b for a, b in zip(vectors[rest[0]], vectors[rest[1]], strict=False))]
    if name == "linear":
        matrix = matrices[rest[1]]
        rows = matrix.rows() if isinstance(matrix, Matrix) else matrix
        return [sum(w * x for w, x in zip(row, vectors[rest[0]], strict=False)) for row in rows]
    if name == "softmax":
        logits = vectors[rest[0]]
        top = on.largest(logits)
        exps = [(x - top).exp() for x in logits]
        total = sum(exps)
        return [e / total for e in exps]
    if name == "largest":
        return [vectors[rest[0]][0] - on.largest(vectors[rest[0]])]
    if name == "row":
        return on.row(matrices[rest[0]], tokens[rest[1]])
    if name == "select":
        return [on.select(vectors[rest[0]], tokens[rest[1]])]
    if name == "concat":
        return vectors[rest[0]] + vectors[rest[1]]
    if name == "part":
        return vectors[rest[0]][rest[1] :] or vectors[rest[0]]
    if name == "reversed":
        return vectors[rest[0]][::-1]
    if name == "constant":
        return [on.constant(c) for c in rest]
    raise AssertionError(name)


@dataclass
class Recipe:
    """A random function and arguments on which its numbers stay tame."""

    loose: list[float]
    matrices: list[list[list[float]]]
    inputs: list[float]
    tokens: list[int]
    steps: list[Step] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)  # vector, index in it
    several: bool = False  # a list of losses instead of one Value

    def function(
        self, loose: Sequence[Any], matrices: Sequence[Any], on: Any
    ) -> Callable[..., Any]:
        """Return the function as compile() takes it."""

        def call(*arguments: Any) -> Any:
            given = list(arguments)
            tokens = given.pop(0) if self.tokens else []
            vectors = [list(loose)] + ([list(given.pop(0))] if self.inputs else [])
            for step in self.steps:
                vectors.append(run_step(step, vectors, matrices, on, tokens))
            losses = [vectors[v][i] for v, i in self.outputs]
            return losses if self.several else losses[0]

        return call

    def arguments(self, wrap: Callable[[float], Any]) -> list[Any]:
        tokens = [self.tokens] if self.tokens else []
        return tokens + ([[wrap(x) for x in self.inputs]] if self.inputs else [])


@st.composite
def recipes(
    draw: Callable[..., Any],
    *,
    several: bool = False,
    smooth: bool = False,
    tokens: bool = True,
    most: int = 14,
) -> Recipe:
    """Draw a recipe whose numbers stay below about 1e3 and away from poles and kinks."""
    small = st.integers(-300, 300).map(lambda i: (i + (i >= 0)) / 128)
    loose = draw(st.lists(small, min_size=1, max_size=4))
    shapes = draw(st.lists(st.tuples(st.integers(2, 4), st.integers(1, 4)), max_size=2))
    matrices = [[[draw(small) for _ in range(c)] for _ in range(r)] for r, c in shapes]
    inputs = draw(st.lists(small, max_size=3))
    token_list = draw(st.lists(st.integers(0, 1), max_size=2)) if tokens else []
    recipe = Recipe(loose, matrices, inputs, token_list, several=several)
    on = OnBounds()
    bounds = [[[Bound(x) for x in row] for row in m] for m in matrices]
    vectors = [[Bound(x) for x in loose]] + ([[Bound(x) for x in inputs]] if inputs else [])
    names = [
        *UNARY, *BINARY, *BINARY, *BY_NUMBER, "pow", "pow", "sum", "plain_sum", "right_sum", "dot", "dot",
        "concat", "part", "reversed", "constant",
    ]  # fmt: skip
    names += ["linear", "linear", "linear"] if matrices else []
    names += [] if smooth else ["softmax", "softmax", "largest"]
    names += ["row", "row"] if matrices and token_list else []
    names += ["select", "select"] if token_list else []
    if smooth:
        names.remove("relu")
    for _ in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from(names))

        def vector() -> int:
            return len(vectors) - 1 - draw(st.integers(0, len(vectors) - 1))

        if name in BINARY or name in ("dot", "concat"):
            step: Step = (name, vector(), vector())
        elif name in BY_NUMBER:
            step = (name, vector(), draw(st.sampled_from(NUMBERS)))
        elif name == "pow":
            step = (name, vector(), draw(st.sampled_from(POWERS)))
        elif name == "linear":
            step = (name, vector(), draw(st.integers(0, len(matrices) - 1)))
        elif name == "row":
            step = (
                name,
                draw(st.integers(0, len(matrices) - 1)),
                draw(st.integers(0, len(token_list) - 1)),
            )
        elif name == "select":
            step = (name, vector(), draw(st.integers(0, len(token_list) - 1)))
            if len(vectors[step[1]]) < 2:
                step = ("tanh", step[1])
        elif name == "part":
            step = (name, vector(), draw(st.integers(1, 3)))
        elif name == "constant":
            step = (name, *draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3)))
        else:
            step = (name, vector())
        made = tame(step, vectors, bounds, on, token_list)
        if made is None:
            step = ("tanh", step[1])
            made = run_step(step, vectors, bounds, on, token_list)
        recipe.steps.append(step)
        vectors.append(made)
    for _ in range(draw(st.integers(1, 5)) if several else 1):
        v = len(vectors) - 1 - draw(st.integers(0, min(len(vectors) - 1, 6)))
        recipe.outputs.append((v, draw(st.integers(0, len(vectors[v]) - 1))))
    return recipe


def tame(
    step: Step, vectors: list[list[Bound]], matrices: Any, on: Any, tokens: Any
) -> list[Bound] | None:
    """Return the result of the step, or None if it comes near a pole, a kink or 1e3."""
    operand = vectors[step[1]] if step[0] not in ("row", "constant") else []
    if step[0] in ("log", "inverse", "c/x", "relu") or (
        step[0] == "pow" and step[2] not in (2, 3, 1)
    ):
        positive = step[0] == "log" or (step[0] == "pow" and step[2] not in (-1, 0))
        if any((x.data if positive else abs(x.data)) < 0.2 for x in operand):
            return None
    if step[0] == "div" and any(abs(x.data) < 0.2 for x in vectors[step[2]]):
        return None
    if step[0] == "x/c" and step[2] == 0:
        return None
    if step[0] == "exp" and any(x.data > 5 for x in operand):
        return None
    if step[0] == "concat" and len(operand) + len(vectors[step[2]]) > 24:
        return None
    made = run_step(step, vectors, matrices, on, tokens)
    return made if all(abs(x.data) < 1e3 and x.error < 1e6 for x in made) else None


@dataclass
class Parameters:
    """The parameters of a recipe on one tape, and their gradients as one list."""

    tape: Tape
    loose: list[Value]
    matrices: list[Matrix]

    @classmethod
    def of(cls, recipe: Recipe) -> Parameters:
        tape = Tape()
        made = cls(tape, [tape.value(x) for x in recipe.loose], [])
        for rows in recipe.matrices:
            matrix = tape.matrix(len(rows), len(rows[0]))
            matrix.values[:] = rows
            made.matrices.append(matrix)
        return made

    def all(self) -> list[Any]:
        return [self.loose, self.matrices]

    def grads(self) -> np.ndarray:
        return flat([v.grad for v in self.loose], [m.grads for m in self.matrices])

    def values(self) -> np.ndarray:
        return flat([v.data for v in self.loose], [m.values for m in self.matrices])


def flat(loose: Sequence[float], matrices: Sequence[Any]) -> np.ndarray:
    return np.concatenate(
        [np.array(loose, float), *(np.asarray(m, float).ravel() for m in matrices)]
    )


def mean(losses: Any) -> Any:
    """Return the loss of a function's result, as microgpt computes it."""
    return (1 / len(losses)) * sum(losses) if isinstance(losses, list) else losses


def by_tape(recipe: Recipe) -> tuple[float, np.ndarray]:
    """Return loss and gradients of the same function on Values."""
    parameters = Parameters.of(recipe)
    function = recipe.function(parameters.loose, parameters.matrices, OnTape(parameters.tape))
    loss = mean(function(*recipe.arguments(parameters.tape.value)))
    loss.backward()
    return loss.data, parameters.grads()


def by_bounds(recipe: Recipe) -> tuple[float, np.ndarray]:
    """Return error bounds of the loss and of the gradients, in roundings."""
    loose = [Bound(x) for x in recipe.loose]
    matrices = [[[Bound(x) for x in row] for row in m] for m in recipe.matrices]
    loss = mean(recipe.function(loose, matrices, OnBounds())(*recipe.arguments(Bound)))
    loss.backward()
    return loss.error, flat(
        [b.grad_error for b in loose],
        [[[b.grad_error for b in row] for row in m] for m in matrices],
    )


@dataclass
class Cell:
    """A random causal sequence model: the same steps at every position, which may look back."""

    vocab: int
    embedding: list[list[float]]  # (vocab, width)
    head: list[list[float]]  # (vocab, width)
    start: list[float]  # (width,) the state before the first position
    steps: list[Step]
    state: int  # index of the vector whose tanh is the state for the next position
    looks_back: bool  # attention over the states so far
    first_too: bool  # every position also sees the first state of the document
    loss: str  # "cross entropy" or "square"

    def function(
        self, start: Sequence[Any], matrices: Sequence[Any], on: Any
    ) -> Callable[..., Any]:
        """Return a function of n + 1 tokens with n losses: token t + 1 from tokens 0 … t."""
        width = len(self.start)

        def call(tokens: Sequence[Any]) -> list[Any]:
            state, states, losses = list(start), [], []
            for t in range(len(tokens) - 1):
                vectors = [list(start), state, on.row(matrices[0], tokens[t])]
                if self.first_too:
                    vectors.append(states[0] if states else [x * 1.0 for x in vectors[2]])
                if self.looks_back and states:
                    scores = [
                        sum(a * b for a, b in zip(s, vectors[2], strict=True)) for s in states
                    ]
                    weights = run_step(("softmax", 0), [scores], (), on, ())
                    columns = zip(*states, strict=True)
                    vectors.append(
                        [
                            sum(w * c for w, c in zip(weights, column, strict=True))
                            for column in columns
                        ]
                    )
                else:
                    vectors.append(vectors[2])
                for step in self.steps:
                    vectors.append(run_step(step, vectors, matrices, on, tokens))
                chosen = vectors[self.state % len(vectors)]
                state = [chosen[i % len(chosen)].tanh() for i in range(width)]
                states.append(state)
                losses.append(self.loss_of(state, start, matrices, on, tokens[t + 1]))
            return losses

        return call

    def loss_of(self, state: Any, start: Any, matrices: Any, on: Any, target: Any) -> Any:
        logits = run_step(("linear", 0, 1), [state], matrices, on, ())
        if self.loss == "cross entropy":
            return -on.select(run_step(("softmax", 0), [logits], (), on, ()), target).log()
        return (on.select(logits, target) - 1.0) ** 2


@st.composite
def cells(draw: Callable[..., Any]) -> Cell:
    small = st.integers(-128, 127).map(lambda i: (i + (i >= 0)) / 128)
    vocab, width = draw(st.integers(2, 4)), draw(st.integers(1, 4))

    def matrix() -> list[list[float]]:
        return [[draw(small) for _ in range(width)] for _ in range(vocab)]

    first_too = draw(st.booleans())
    known = 4 + first_too
    steps: list[Step] = []
    lengths = [width] * known
    for _ in range(draw(st.integers(1, 8))):
        name = draw(
            st.sampled_from(
                [
                    *SAFE,
                    "add",
                    "sub",
                    "mul",
                    "x*c",
                    "c-x",
                    "linear",
                    "dot",
                    "softmax",
                    "reversed",
                    "pow",
                ]
            )
        )
        a = known - 1 - draw(st.integers(0, known - 1))
        if name in BINARY or name == "dot":
            step: Step = (name, a, known - 1 - draw(st.integers(0, known - 1)))
            length = (
                1
                if name == "dot"
                else max(lengths[a], lengths[step[2]])
                if name != "sub"
                else lengths[a]
            )
        elif name in ("x*c", "c-x"):
            step, length = (name, a, draw(st.sampled_from((0.5, -1.0, 2.0)))), lengths[a]
        elif name == "linear":
            step, length = (name, a, draw(st.integers(0, 1))), vocab
        elif name == "pow":
            step, length = (name, a, 2), lengths[a]
        else:
            step, length = (name, a), lengths[a]
        steps.append(step)
        # Keeps the results of squares and products small.
        if name in ("mul", "pow", "dot", "linear", "add", "sub", "x*c", "c-x"):
            steps.append(("tanh", known))
            lengths.append(length)
            known += 1
        lengths.append(length)
        known += 1
    loss = draw(st.sampled_from(["cross entropy", "cross entropy", "square"]))
    return Cell(
        vocab, matrix(), matrix(), [draw(small) for _ in range(width)], steps,
        known - 1 - draw(st.integers(0, 3)), draw(st.booleans()), first_too, loss,
    )  # fmt: skip


@dataclass
class CellParameters:
    """The parameters of a cell on one tape."""

    tape: Tape
    start: list[Value]
    matrices: list[Matrix]

    @classmethod
    def of(cls, cell: Cell) -> CellParameters:
        tape = Tape()
        made = cls(tape, [tape.value(x) for x in cell.start], [])
        for rows in (cell.embedding, cell.head):
            made.matrices.append(tape.matrix(len(rows), len(rows[0])))
            made.matrices[-1].values[:] = rows
        return made

    def all(self) -> list[Any]:
        return [self.start, self.matrices]

    def grads(self) -> np.ndarray:
        return flat([v.grad for v in self.start], [m.grads for m in self.matrices])

    def function(self, cell: Cell) -> Callable[..., Any]:
        return cell.function(self.start, self.matrices, OnTape(self.tape))


def mean_of_documents(function: Callable[..., Any], documents: Sequence[Any]) -> Any:
    """Return the mean over documents of their mean losses."""
    losses = [mean(function(document)) for document in documents]
    return losses[0] if len(losses) == 1 else (1 / len(losses)) * sum(losses)


def cell_by_tape(cell: Cell, documents: Sequence[Any]) -> tuple[float, np.ndarray]:
    parameters = CellParameters.of(cell)
    loss = mean_of_documents(parameters.function(cell), documents)
    loss.backward()
    return loss.data, parameters.grads()


def cell_by_bounds(cell: Cell, documents: Sequence[Any]) -> tuple[float, np.ndarray]:
    start = [Bound(x) for x in cell.start]
    matrices = [[[Bound(x) for x in row] for row in m] for m in (cell.embedding, cell.head)]
    loss = mean_of_documents(cell.function(start, matrices, OnBounds()), documents)
    loss.backward()
    return loss.error, flat(
        [b.grad_error for b in start],
        [[[b.grad_error for b in row] for row in m] for m in matrices],
    )


class PlainAdamW:
    """AdamW (Loshchilov & Hutter 2019) on a list of floats, each operation rounded once."""

    def __init__(
        self, count: int, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
    ) -> None:
        self.lr, self.beta1, self.beta2, self.eps, self.decay = lr, beta1, beta2, eps, weight_decay
        self.m, self.v, self.t = [0.0] * count, [0.0] * count, 0

    def step(self, values: Sequence[float], grads: Sequence[float]) -> list[float]:
        self.t += 1
        made = []
        for i, (x, g) in enumerate(zip(values, grads, strict=True)):
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
            self.v[i] = self.beta2 * self.v[i] + (1 - self.beta2) * g**2
            m_hat = self.m[i] / (1 - self.beta1**self.t)
            v_hat = self.v[i] / (1 - self.beta2**self.t)
            made.append(x * (1 - self.lr * self.decay) - self.lr * m_hat / (v_hat**0.5 + self.eps))
        return made
