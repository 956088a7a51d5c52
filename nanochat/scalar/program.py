"""compile(): a function of Values, recorded once, becomes a Program that replays without Python.

The front of nanochat._scalar's Program: what is recorded and checked. The passes are in
csrc/scalar/program, one file each; docs/program.md walks through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from nanochat import _scalar
from nanochat.errors import ProgramError
from nanochat.scalar.value import Matrix, Tape, Value
from nanochat.system.threads import thread_count

__all__ = ["Program", "compile"]

Parameters = Matrix | Value | Mapping[Any, Any] | Iterable[Any]


def compile(
    function: Callable[..., Any],
    parameters: Parameters,  # Matrices and Values, in any nesting of lists and mappings
    *,
    tokens: int = 0,  # how many tokens the function takes, at most
    inputs: int = 0,  # how many numbers
    numerics: str = "fast",
    dtype: str = "float64",
    dump_nodes: int = 0,  # of the graph after each pass, kept for explain()
    threads: int = 0,  # at most; 0: OMP_NUM_THREADS, or one a core
    tape: Tape | None = None,
) -> Program:
    """Record `function` and return the Program that trains its parameters.

    The function is called once, with a list of `tokens` Tokens and a list of `inputs` Values (each
    left out when there are none), and returns its loss: one Value, or a list of one Value a
    position, of which the loss is the mean. A Token stands for an int that a replay chooses: give
    it to `Matrix.row(token)` (or `matrix[token]`) and `select(values, token)`. The largest of some
    values, as a constant, is `detached_max(values)`. Reading `.data` of a Value while it is
    recorded raises TypeError: the number would be frozen into the program. Writing it, or calling
    `backward()`, raises ProgramError, and so does an argument out of its range.

    A document may be shorter than `tokens`: it runs the positions whose tokens it has. The losses
    of a document's beginning must therefore be the beginning of its losses; this is tried out on
    one short document, and ProgramError is raised when it does not hold.

    numerics: "exact" gives the bits of the same function on Values, each operation rounded once,
    gradients added in microgpt.py's order; "fast" fuses and regroups (relative difference about
    1e-15 a step). dtype: "float64", or "float32" with fast.

    With fast numerics a batch of at least 16 documents (in float32: 32) and two million
    multiply-adds is dealt to shards, which threads share. The shards depend on the batch alone and
    their gradients are added in a fixed order: any number of threads gives the same bits.
    """
    counts = {"tokens": tokens, "inputs": inputs, "dump_nodes": dump_nodes, "threads": threads}
    _check_options(function, counts, numerics, dtype, tape)
    flat = list(_flatten(parameters))
    if not flat:
        raise ProgramError("a program needs at least one parameter, got none")
    program = Program(function, flat, tokens, inputs, numerics, dtype, dump_nodes, threads, tape)
    program._try_shorter()
    return program


class Program:
    """A recorded function, optimised. Made by compile()."""

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: Sequence[Matrix | Value],
        tokens: int,
        inputs: int,
        numerics: str,
        dtype: str,
        dump_nodes: int,
        threads: int,
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
                losses = self._call(
                    [_scalar.Token(i, 0) for i in range(tokens)],
                    [recorder.input(i) for i in range(inputs)],
                )
            except _scalar.RecordingError as error:
                raise ProgramError(str(error)) from error
            self._several = not isinstance(losses, Value)
            outputs = _losses(losses)
            self.core = _scalar.Program.compile(
                recorder, outputs, [], numerics, dtype, self._several, dump_nodes,
                tokens, inputs, thread_count(threads),
            )  # fmt: skip
        if numerics == "exact" and not self.core.ordered:
            raise ProgramError(
                "this function's gradients cannot be added in microgpt.py's order by a program; "
                "use numerics='fast', or backward() of its Values"
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
        """One step of AdamW on a document, or on the mean of several; returns the loss before it.

        tokens: a list of ints, or a list of such lists; inputs: (inputs,) or (documents, inputs)
        numbers. The parameters' Values are read before and written after. Raises ValueError for a
        token or a length out of range, ProgramError for a setting out of its range.
        """
        try:
            fits = 0 <= lr < math.inf and 0 <= beta1 < 1 and 0 <= beta2 < 1
            fits = fits and 0 <= eps < math.inf and 0 <= weight_decay < math.inf
        except TypeError:
            fits = False
        if not fits:
            raise _unfit_setting(
                lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
            )
        return self.core.step(tokens, inputs, lr, beta1, beta2, eps, weight_decay)

    def loss(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]] | None = None,
        inputs: ArrayLike | None = None,
    ) -> float:
        """The loss, as step() takes it; nothing changes."""
        return self.core.loss(tokens, inputs)

    def grad(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]] | None = None,
        inputs: ArrayLike | None = None,
    ) -> float:
        """The loss; the parameters' `.grad` become its gradients."""
        return self.core.grad(tokens, inputs)

    def explain(self) -> str:
        """What each pass left of the graph, by kind of node, and the vector program, as text.

        With compile(dump_nodes=n) the first n nodes after each pass are written out too.
        """
        passes = [f"{name}: {text}" for name, text in self.core.passes]
        return "\n".join([*passes, self.core.listing()])

    def to_c(self) -> str:
        """The program as one C file that compiles and trains by itself, with the same numbers."""
        return self.core.to_c()

    def _shake(self) -> list[Any]:
        """Move each parameter a little, so that zeros hide nothing; returns what they were."""
        kept: list[Any] = []
        for i, parameter in enumerate(self._parameters, start=1):
            if isinstance(parameter, Value):
                kept.append(parameter.data)
                parameter.data += 0.01 * math.sin(i)
            else:
                kept.append(parameter.values.copy())
                steps = np.arange(parameter.values.size).reshape(parameter.shape)
                parameter.values[:] += 0.01 * np.sin(i + steps)
        return kept

    def _put_back(self, kept: Sequence[Any]) -> None:
        for parameter, was in zip(self._parameters, kept, strict=True):
            if isinstance(parameter, Value):
                parameter.data = was
            else:
                parameter.values[:] = was

    def _call(self, tokens: list[Any], inputs: list[Any]) -> Any:
        arguments = ([tokens] if self._tokens else []) + ([inputs] if self._inputs else [])
        return self._function(*arguments)

    def _try_shorter(self) -> None:
        """A short document's losses, by replay and by the function itself."""
        if not self._several or self.core.stages < 2 or not self.core.slots:
            return
        count = max(self.core.slots // 2, self.core.fewest_tokens)
        tokens = [(7 * i + 1) % limit for i, limit in enumerate(self.core.limits[:count])]
        numbers = [1.0 + 0.1 * i for i in range(self._inputs)]
        kept = self._shake()
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
            self._put_back(kept)
        if not math.isclose(got, expected, rel_tol=1e-4, abs_tol=1e-6):
            raise ProgramError(
                f"the losses of {count} tokens are not the first losses of {self._tokens} tokens "
                f"(mean {expected:.6g}, by replay {got:.6g}); return one Value instead of a list"
            )


def _check_options(
    function: Any, counts: Mapping[str, Any], numerics: Any, dtype: Any, tape: Any
) -> None:
    if not callable(function):
        raise ProgramError(f"function must be callable, got {type(function).__name__}")
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ProgramError(f"{name} must be an int, at least 0, got {count!r}")
    if numerics not in ("fast", "exact"):
        raise ProgramError(f"numerics must be 'fast' or 'exact', got {numerics!r}")
    if dtype not in ("float64", "float32"):
        raise ProgramError(f"dtype must be 'float64' or 'float32', got {dtype!r}")
    if tape is not None and not isinstance(tape, Tape):
        raise ProgramError(f"tape must be a Tape or None, got {type(tape).__name__}")


def _unfit_setting(**settings: Any) -> ProgramError:
    """The error that names the first setting of step() out of its range."""
    for name, value in settings.items():
        below = 1 if name.startswith("beta") else math.inf
        if not isinstance(value, (int, float, np.number)) or not 0 <= value < below:
            rule = "at least 0 and below 1" if below == 1 else "finite and at least 0"
            return ProgramError(f"{name} must be a number, {rule}, got {value!r}")
    raise AssertionError(settings)


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
