"""A running error bound: the independent oracle of rounding in the tests of programs.

Each number carries a bound on its distance from the result of the same operations in any order.
The tests use these bounds instead of guessed tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

UNIT = 1e-14  # a rounding is 1.1e-16; exp, log and tanh of two libraries differ by a few


class Bound:
    """A number with a running bound on its error, in units of one rounding (Wilkinson 1986).

    `error` is Σ |derivative| · error of the operand, plus the size of the rounded result. A sum counts
    its terms instead of its result, which makes the bound valid for any order of addition.
    `grad_error` is the same bound for the derivative of the result with respect to this number.
    """

    def __init__(
        self, data: float, error: float | None = None, parents: Sequence[Any] = ()
    ) -> None:
        self.data = data
        self.error = abs(data) if error is None else error  # a leaf is also rounded, to float32
        self.parents = parents  # (operand, derivative, error of the derivative)
        self.grad = self.grad_error = 0.0

    def __add__(self, other: Bound | float) -> Bound:
        right = bound(other)
        error = self.error + right.error + abs(self.data) + abs(right.data)
        return Bound(self.data + right.data, error, ((self, 1.0, 0.0), (right, 1.0, 0.0)))

    def __mul__(self, other: Bound | float) -> Bound:
        right = bound(other)
        data = self.data * right.data
        error = abs(self.data) * right.error + abs(right.data) * self.error + abs(data)
        parents = ((self, right.data, right.error), (right, self.data, self.error))
        return Bound(data, error, parents)

    def unary(self, value: float, first: float, second: float) -> Bound:
        """Apply a function, given f(x), f'(x) and f''(x)."""
        error = abs(value) + abs(first) * self.error
        return Bound(value, error, ((self, first, abs(first) + abs(second) * self.error),))

    def __pow__(self, e: float) -> Bound:
        x = self.data
        second = e * (e - 1) * x ** (e - 2) if e * (e - 1) else 0.0
        return self.unary(x**e, e * x ** (e - 1) if e else 0.0, second)

    def exp(self) -> Bound:
        y = math.exp(self.data)
        return self.unary(y, y, y)

    def log(self) -> Bound:
        return self.unary(math.log(self.data), 1 / self.data, -1 / self.data**2)

    def tanh(self) -> Bound:
        t = math.tanh(self.data)
        local = 1 - t * t
        # 1 - t·t cancels: its rounding error is relative to 1.
        error = abs(t) + local * self.error
        return Bound(t, error, ((self, local, 1 + 2 * abs(t) * local * self.error),))

    def relu(self) -> Bound:
        return self.unary(max(0.0, self.data), float(self.data > 0), 0.0)

    def __neg__(self) -> Bound:
        return self * -1.0

    def __sub__(self, other: Bound | float) -> Bound:
        return self + (-bound(other))

    def __rsub__(self, other: float) -> Bound:
        return bound(other) + (-self)

    def __truediv__(self, other: Bound | float) -> Bound:
        return self * bound(other) ** -1

    def __rtruediv__(self, other: float) -> Bound:
        return bound(other) * self**-1

    __radd__ = __add__
    __rmul__ = __mul__

    def backward(self) -> None:
        order: list[Bound] = []
        seen: set[int] = set()
        pending: list[tuple[Bound, bool]] = [(self, False)]
        while pending:
            node, done = pending.pop()
            if done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                pending.append((node, True))
                pending += [(parent[0], False) for parent in node.parents]
        self.grad = 1.0
        for node in reversed(order):
            for operand, local, error in node.parents:
                product = local * node.grad
                operand.grad_error += abs(operand.grad) + abs(product)
                operand.grad_error += abs(local) * node.grad_error + error * abs(node.grad)
                operand.grad += product


def bound(number: Bound | float) -> Bound:
    return number if isinstance(number, Bound) else Bound(float(number))
