"""compile(): records a function of Values once and returns a Program that replays it in C++.

Owns what is recorded and how arguments are checked. The compiler passes are in csrc/scalar/program,
one file per pass; docs/program.md explains them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from nanochat import _scalar
from nanochat.errors import ProgramError
from nanochat.scalar.graph_svg import MOST_NODES, graph_svg
from nanochat.scalar.instruction_set import checked_instruction_set
from nanochat.scalar.value import Matrix, Tape, Value
from nanochat.system.numbers import as_float, as_int, short
from nanochat.system.threads import thread_count

__all__ = ["Program", "compile"]

Parameters = Matrix | Value | Mapping[Any, Any] | Iterable[Any]

# Larger counts are mistakes: recording creates one object per token and input.
LARGEST = {"tokens": 1_000_000, "inputs": 1_000_000, "dump_nodes": 2**31 - 1, "threads": 4096}


def compile(
    function: Callable[..., Any],
    parameters: Parameters,
    *,
    tokens: int = 0,
    inputs: int = 0,
    numerics: str = "fast",
    dtype: str = "float64",
    dump_nodes: int = 0,
    threads: int = 0,
    tape: Tape | None = None,
) -> Program:
    """Record a function once and return the Program that trains its parameters.

    The function is called with a list of `tokens` Tokens and a list of `inputs` Values; an empty
    list is not passed. It returns its loss: one Value, or a list of Values, one per position, whose
    mean is the loss. A Token represents an int that each replay supplies: pass it to
    `Matrix.row(token)`, `matrix[token]` or `select(values, token)`. `detached_max(values)` is the
    largest of some values as a constant.

    A function that returns a list also accepts shorter documents: they run the positions whose
    tokens they have. The losses of the beginning of a document must therefore be the beginning of
    its losses. compile() checks this with one short document.

    Args:
        function: the function to record. It must not read `.data` or `.grad` of a Value, or
            `.values` or `.grads` of a Matrix, assign to them, or call backward(). A number from
            a NumPy view that was taken before compile() becomes a constant of the program: no
            check can see it.
        parameters: Matrices and Values without operands, in any nesting of lists and mappings.
        tokens: the largest number of tokens per document, at most 1,000,000.
        inputs: the number of inputs per document, at most 1,000,000.
        numerics: "exact" is bit-identical to the same function on Values: each operation is rounded
            once and gradients are added in microgpt.py's order. "fast" fuses and reorders
            operations (relative difference about 1e-15 per step).
        dtype: "float64", or "float32" with fast numerics.
        dump_nodes: how many nodes of the graph explain() prints after each pass.
        threads: the largest number of threads; 0 means OMP_NUM_THREADS, or one per core.
        tape: the tape of the parameters; None means the default tape, as for Value(data).

    With fast numerics, a batch of at least 16 documents (32 in float32) and two million
    multiply-adds is split into shards, which threads run in parallel. The shards depend only on the
    batch and their gradients are added in a fixed order: the result is bit-identical for any number
    of threads.

    Raises:
        ProgramError: an argument is out of its range, the function changes a Value, or its losses
            are not the first losses of a longer document.
        TypeError: the function reads a number while it is recorded, which would make the number a
            constant of the program.
        ValueError: a parameter is on another tape, has operands or is given twice.

    Example:
        >>> from nanochat import Matrix, compile
        >>> w = Matrix([[0.5, -0.5]])
        >>> def loss(inputs):
        ...     (a, b), (x, y) = w.row(0), inputs
        ...     return (a * x + b - y) ** 2
        >>> program = compile(loss, w, inputs=2)
        >>> round(program.loss(inputs=[3.0, 7.0]), 6)
        36.0
        >>> for _ in range(300):
        ...     _ = program.step(inputs=[[1.0, 3.0], [2.0, 5.0]], lr=0.1)
        >>> w.values.round(1).tolist()
        [[2.0, 1.0]]
    """
    given = {"tokens": tokens, "inputs": inputs, "dump_nodes": dump_nodes, "threads": threads}
    counts = _checked_counts(function, given, numerics, dtype, tape)
    try:
        flat = list(_flatten(parameters))
    except RecursionError:
        raise ProgramError("parameters must be nested less deeply, or contain no cycle") from None
    if not flat:
        raise ProgramError("a program needs at least one parameter, got none")
    program = Program(function, flat, **counts, numerics=numerics, dtype=dtype, tape=tape)
    program._check_shorter_documents()
    return program


class Program:
    """A recorded and optimized function with its parameters and AdamW state.

    compile() creates it. A Program runs one call at a time: a second call, from another thread or
    from a token's `__index__`, raises ProgramError.

    Example:
        >>> from nanochat import Matrix, compile, select
        >>> w = Matrix([[0.1, 0.2], [0.3, 0.4]])
        >>> def losses(tokens):
        ...     current, target = tokens
        ...     return -select(w.row(current), target)
        >>> program = compile(losses, w, tokens=2)
        >>> program.loss([1, 0])
        -0.3
        >>> program.grad([1, 0])
        -0.3
        >>> w.grads.tolist()
        [[0.0, 0.0], [-1.0, 0.0]]
    """

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: Sequence[Matrix | Value],
        tokens: int,
        inputs: int,
        dump_nodes: int,
        threads: int,
        numerics: str,
        dtype: str,
        tape: Tape | None,
    ) -> None:
        self._function, self._parameters = function, parameters
        self._tokens, self._inputs = tokens, inputs
        self._tape = tape = tape if tape is not None else _scalar.default_tape()
        if numerics == "exact" and tape.dtype == "float32":
            raise ProgramError("exact numerics need a float64 tape, got float32")
        recorder = _scalar.Recorder(tape, list(parameters))
        with recorder:
            try:
                returned = self._call(
                    [_scalar.Token(i, 0) for i in range(tokens)],
                    [recorder.input(i) for i in range(inputs)],
                )
            except _scalar.RecordingError as error:
                raise ProgramError(str(error)) from error
            self._returns_list = not isinstance(returned, Value)
            with checked_instruction_set():
                self.core = _scalar.Program.compile(
                    recorder, _losses(returned), [], numerics, dtype, self._returns_list,
                    dump_nodes, tokens, inputs, thread_count(threads),
                )  # fmt: skip
        if numerics == "exact" and not self.core.ordered:
            raise ProgramError(
                "a program cannot add this function's gradients in microgpt.py's order; use "
                "numerics='fast', or backward() of its Values"
            )

    def step(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]] | None = None,
        inputs: ArrayLike | None = None,
        *,
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> float:
        """Run one AdamW step on the mean loss of the documents; return the loss before the step.

        Reads the parameters' numbers before the step and writes them after it.

        Args:
            tokens: the tokens of one document, or a sequence of documents; None if the function
                takes none.
            inputs: the inputs, (inputs,) or (documents, inputs); None if the function takes none.
            lr, eps, weight_decay: finite numbers of at least 0; the decay is decoupled.
            beta1, beta2: numbers of at least 0 and below 1. A number is an int, a float, or an
                object with `__float__`, such as a NumPy scalar.

        Raises:
            ProgramError: an option is out of its range, or the program is in use.
            ValueError: a token, a number of tokens or the shape of the inputs does not fit.
            TypeError: a token is not an int, or an input is not a number.
        """
        options = (lr, beta1, beta2, eps, weight_decay)
        # Five calls of _checked() take a twentieth of the time of a small step.
        plain = type(lr) is type(beta1) is type(beta2) is type(eps) is type(weight_decay) is float
        if not (
            plain
            and 0.0 <= lr < math.inf
            and 0.0 <= beta1 < 1.0
            and 0.0 <= beta2 < 1.0
            and 0.0 <= eps < math.inf
            and 0.0 <= weight_decay < math.inf
        ):
            options = (
                _checked("lr", lr), _checked("beta1", beta1, below=1.0),
                _checked("beta2", beta2, below=1.0), _checked("eps", eps),
                _checked("weight_decay", weight_decay),
            )  # fmt: skip
        return self.core.step(tokens, inputs, *options)

    def loss(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]] | None = None,
        inputs: ArrayLike | None = None,
    ) -> float:
        """Return the mean loss of the documents. Arguments and errors are those of step()."""
        return self.core.loss(tokens, inputs)

    def grad(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]] | None = None,
        inputs: ArrayLike | None = None,
    ) -> float:
        """Return the mean loss and set the `.grad` of the parameters to its gradients.

        Arguments and errors are those of step().
        """
        return self.core.grad(tokens, inputs)

    def explain(self) -> str:
        """Return the graph after each pass, counted by kind of node, and the vector program.

        With compile(dump_nodes=n), the first n nodes after each pass are printed too.
        """
        passes = [f"{name}: {text}" for name, text in self.core.passes]
        return "\n".join([*passes, self.core.listing()])

    def to_svg(
        self,
        tokens: Sequence[int] | None = None,
        inputs: Sequence[float] | None = None,
        *,
        names: Mapping[str, Value | Sequence[Value]] | None = None,
        most: int = MOST_NODES,
    ) -> str:
        """Return the graph of one document as the text of an SVG image, as Value.to_svg().

        The function runs on Values as it did while it was recorded, and its mean loss backward.
        The numbers are those of exact numerics. The gradients of the parameters stay as they were.

        Args:
            tokens: the tokens of the document; None if the function takes none.
            inputs: the inputs of the document; None if the function takes none.
            names, most: as for Value.to_svg().

        Raises:
            ProgramError: the number of tokens or inputs differs from that of compile().
            ConfigError: `most` is below 1.
        """
        given = {"tokens": (tokens, self._tokens), "inputs": (inputs, self._inputs)}
        for name, (values, count) in given.items():
            if len(values or ()) != count:
                raise ProgramError(f"{name} must be {count} numbers, got {len(values or ())}")
        returned = self._call(list(tokens or ()), [self._tape.value(x) for x in inputs or ()])
        losses = _losses(returned)
        result = losses[0]
        for loss in losses[1:]:
            result = result + loss
        if len(losses) > 1:
            result = result / len(losses)
        saved: list[Any] = [
            p.grad if isinstance(p, Value) else p.grads.copy() for p in self._parameters
        ]
        for parameter in self._parameters:
            parameter.zero_grad()
        try:
            result.backward()
            return graph_svg(result, names=names, most=most)
        finally:
            for parameter, gradients in zip(self._parameters, saved, strict=True):
                if isinstance(parameter, Value):
                    parameter.grad = gradients
                else:
                    parameter.grads[:] = gradients

    def _repr_html_(self) -> str:
        """Return the parameters of the program in a line, and explain() folded, for notebooks."""
        import html  # only notebooks need it

        core = self.core
        head = (
            f"Program: {core.positions} positions, {core.slots} tokens, {core.inputs} inputs,"
            f" {core.values.size:,} parameters"
        )
        listing = html.escape(self.explain())
        return f"<details><summary>{head}</summary><pre>{listing}</pre></details>"

    def to_c(self) -> str:
        """Return a C program that trains from the present state with the same numbers."""
        return self.core.to_c()

    def _shift_parameters(self) -> list[Any]:
        """Add a small number to each parameter, since zeros hide errors; return the old ones."""
        saved: list[Any] = []
        for i, parameter in enumerate(self._parameters, start=1):
            if isinstance(parameter, Value):
                saved.append(parameter.data)
                parameter.data += 0.01 * math.sin(i)
            else:
                saved.append(parameter.values.copy())
                steps = np.arange(parameter.values.size).reshape(parameter.shape)
                parameter.values[:] += 0.01 * np.sin(i + steps)
        return saved

    def _restore_parameters(self, saved: Sequence[Any]) -> None:
        for parameter, numbers in zip(self._parameters, saved, strict=True):
            if isinstance(parameter, Value):
                parameter.data = numbers
            else:
                parameter.values[:] = numbers

    def _call(self, tokens: list[Any], inputs: list[Any]) -> Any:
        arguments = ([tokens] if self._tokens else []) + ([inputs] if self._inputs else [])
        return self._function(*arguments)

    def _check_shorter_documents(self) -> None:
        """Compare the losses of a short document by replay with those of the function itself."""
        if not self._returns_list or self.core.positions < 2 or not self.core.slots:
            return
        count = max(self.core.slots // 2, self.core.fewest_tokens)
        tokens = [(7 * i + 1) % limit for i, limit in enumerate(self.core.limits[:count])]
        numbers = [1.0 + 0.1 * i for i in range(self._inputs)]
        saved = self._shift_parameters()
        try:
            losses = self._call(tokens, [self._tape.value(number) for number in numbers])
            expected = sum(loss.data for loss in losses) / len(losses)
        except (IndexError, ValueError) as error:
            raise ProgramError(
                f"the function must also take {count} tokens, the beginning of {self._tokens}, got"
                f" {type(error).__name__}: {error}; return one Value instead of a list"
            ) from error
        else:
            got = self.core.loss(tokens, np.array(numbers) if numbers else None)
        finally:
            self._restore_parameters(saved)
        if not math.isclose(got, expected, rel_tol=1e-4, abs_tol=1e-6):
            raise ProgramError(
                f"the losses of {count} tokens are not the first losses of {self._tokens} tokens "
                f"(mean {expected:.6g}, by replay {got:.6g}); return one Value instead of a list"
            )


def _checked_counts(
    function: Any, given: Mapping[str, Any], numerics: Any, dtype: Any, tape: Any
) -> dict[str, int]:
    """Return the counts as ints. Raises ProgramError for an argument of compile() that is wrong."""
    if not callable(function):
        raise ProgramError(f"function must be callable, got {type(function).__name__}")
    counts = {}
    for name, value in given.items():
        count = as_int(value)
        if count is None or count < 0:
            raise ProgramError(f"{name} must be an int, at least 0, got {short(value)}")
        if count > LARGEST[name]:
            raise ProgramError(f"{name} must be at most {LARGEST[name]:,}, got {short(value)}")
        counts[name] = count
    if not isinstance(numerics, str) or numerics not in ("fast", "exact"):
        raise ProgramError(f"numerics must be 'fast' or 'exact', got {short(numerics)}")
    if not isinstance(dtype, str) or dtype not in ("float64", "float32"):
        raise ProgramError(f"dtype must be 'float64' or 'float32', got {short(dtype)}")
    if tape is not None and not isinstance(tape, Tape):
        raise ProgramError(f"tape must be a Tape or None, got {type(tape).__name__}")
    return counts


def _checked(name: str, value: Any, *, below: float = math.inf) -> float:
    """Return an option of step() as a float in [0, below). Raises ProgramError."""
    if type(value) is float and 0.0 <= value < below:
        return value
    number = as_float(value)
    if number is None or not 0.0 <= number < below:
        rule = "finite and at least 0" if below == math.inf else f"at least 0 and below {below:g}"
        raise ProgramError(f"{name} must be a number, {rule}, got {short(value)}")
    return number


def _losses(returned: Any) -> list[Value]:
    if isinstance(returned, Value):
        return [returned]
    losses = list(returned) if isinstance(returned, Iterable) else [returned]
    for loss in losses:
        if not isinstance(loss, Value):
            raise ProgramError(
                "a function to compile must return a Value or a list of Values, got"
                f" {type(loss).__name__}"
            )
    if not losses:
        raise ProgramError("a function to compile must return at least one loss, got none")
    return losses


def _flatten(parameters: Parameters) -> Iterable[Matrix | Value]:
    if isinstance(parameters, (Matrix, Value)):
        yield parameters
    elif isinstance(parameters, Mapping):
        for value in parameters.values():
            yield from _flatten(cast(Parameters, value))
    elif isinstance(parameters, Iterable) and not isinstance(parameters, (str, bytes)):
        for value in parameters:
            yield from _flatten(value)
    else:
        raise ProgramError(
            f"parameters must be Matrices and Values, got {type(parameters).__name__}"
        )
