"""Oracle: reverse-mode scalars in plain Python, arithmetic and order of microgpt.py's Value.

Slow and obvious on purpose. Numbers become child nodes here, where the compiled Value folds them
into the operation; bits must agree all the same. relu gives a float: negating max(0, x)'s int 0
would lose the sign of zero.
"""

from __future__ import annotations

import math

Number = int | float


class PlainValue:
    """A number, the nodes it was computed from, and the local derivative for each of them."""

    def __init__(
        self,
        data: Number,
        children: tuple[PlainValue, ...] = (),
        local_grads: tuple[Number, ...] = (),
    ) -> None:
        self.data = data
        self.grad: Number = 0
        self.children = children
        self.local_grads = local_grads

    def __add__(self, other: PlainValue | Number) -> PlainValue:
        right = wrapped(other)
        return PlainValue(self.data + right.data, (self, right), (1, 1))

    def __mul__(self, other: PlainValue | Number) -> PlainValue:
        right = wrapped(other)
        return PlainValue(self.data * right.data, (self, right), (right.data, self.data))

    def __pow__(self, exponent: Number) -> PlainValue:
        local = exponent * self.data ** (exponent - 1)
        return PlainValue(self.data**exponent, (self,), (local,))

    def exp(self) -> PlainValue:
        value = math.exp(self.data)
        return PlainValue(value, (self,), (value,))

    def log(self) -> PlainValue:
        return PlainValue(math.log(self.data), (self,), (1 / self.data,))

    def relu(self) -> PlainValue:
        return PlainValue(max(0.0, self.data), (self,), (float(self.data > 0),))

    def tanh(self) -> PlainValue:
        """Not in microgpt.py; the local derivative is 1 - t*t, each operation rounded once."""
        value = math.tanh(self.data)
        return PlainValue(value, (self,), (1 - value * value,))

    def __neg__(self) -> PlainValue:
        return self * -1

    def __radd__(self, other: Number) -> PlainValue:
        return self + other

    def __sub__(self, other: PlainValue | Number) -> PlainValue:
        return self + (-other)

    def __rsub__(self, other: Number) -> PlainValue:
        return other + (-self)

    def __rmul__(self, other: Number) -> PlainValue:
        return self * other

    def __truediv__(self, other: PlainValue | Number) -> PlainValue:
        return self * other**-1

    def __rtruediv__(self, other: Number) -> PlainValue:
        return other * self**-1

    def backward(self) -> None:
        order: list[PlainValue] = []
        seen: set[PlainValue] = set()

        def visit(node: PlainValue) -> None:
            if node in seen:
                return
            seen.add(node)
            for child in node.children:
                visit(child)
            order.append(node)

        visit(self)
        self.grad = 1
        for node in reversed(order):
            for child, local in zip(node.children, node.local_grads, strict=True):
                child.grad += local * node.grad


def wrapped(operand: PlainValue | Number) -> PlainValue:
    return operand if isinstance(operand, PlainValue) else PlainValue(operand)
