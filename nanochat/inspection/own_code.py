"""Which named arrays a model file computes, and at which of its lines.

An array is the user's own if a method that they override computes it, or if the built-in model does
not have it. Its formula is not known then.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from types import CodeType
from typing import Any

from nanochat.model.model_file import CLASSES, ModelFile

__all__ = ["OwnCode"]

# The arrays that each method of a block computes.
_OF_BLOCK = {
    "activation": r"mlp\.active",
    "norm": r"(attn|mlp)\.norm|attn\.[qk]_norm",
    "rotate_and_norm": r"attn\.[qk]_(rotated|norm)",
    "mlp": r"mlp\.(?!residual).*",
    "attention": r"attn\.(?!residual).*",
    **dict.fromkeys(("forward", "__init__"), ".*"),
}
_OF_MODEL = {
    "norm": r"(embed|output)\.norm",
    **dict.fromkeys(
        ("logits", "hidden", "new_cache", "__init__"), r"(layer\d+|embed|output)\..*|logits.*"
    ),
}


class OwnCode:
    """The methods of the built-in model that a file overrides."""

    def __init__(self, own: ModelFile, mode: str) -> None:
        self._own = own
        model: Any = getattr(own.module, CLASSES[mode])
        self._strings, self._outside = _strings(ast.parse(own.source))
        self._of_classes = [
            value
            for kind in (*model.block.__mro__, *model.__mro__)
            for value in vars(kind).values()
        ]
        self._of_block = _overridden(model.block, "Block", _OF_BLOCK)
        self._of_model = _overridden(model, "MiniGPT", _OF_MODEL)

    def line_of(self, name: str, *, is_known: bool) -> tuple[str, int] | None:
        """Return the file and line that compute an array, or None for the built-in model's.

        `is_known`: whether the built-in model has the array and its operands.
        """
        layer, _, short = name.rpartition("layer")[2].partition(".")
        short = short if layer.isdecimal() else name
        methods = [
            method
            for pattern, method in self._of_block
            if short != name and re.fullmatch(pattern, short)
        ]
        methods += [method for pattern, method in self._of_model if re.fullmatch(pattern, name)]
        if is_known and not methods:
            return None
        return self._own.path, self._line(short, methods)

    def _line(self, short: str, methods: list[Any]) -> int:
        """Return the line that gives a name to `see`, or the first one of the method.

        The method that computes the array comes first, then the classes of the engine, then
        functions outside of classes. The other engine's class may use the same name.
        """
        named = self._strings.get(short, [])
        for method in (*methods, *self._of_classes):
            lines = self._lines_of(method)
            for number in named:
                if number in lines:
                    return number
        for number in named:
            if number in self._outside:
                return number
        return next((lines[0] for method in methods if (lines := self._lines_of(method))), 1)

    def _lines_of(self, method: Any) -> range:
        """Return the lines of a method, none if it is not in the file."""
        method = getattr(method, "__func__", method)  # of a staticmethod or classmethod
        code = getattr(inspect.unwrap(method), "__code__", None)
        if not isinstance(code, CodeType) or code.co_filename != self._own.path:
            return range(0)
        return range(code.co_firstlineno, max(_code_lines(code)) + 1)


def _code_lines(code: CodeType) -> Iterator[int]:
    """Yield the lines of a function and of the functions inside of it."""
    yield code.co_firstlineno
    for _, _, line in code.co_lines():
        if line is not None:
            yield line
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_lines(constant)


def _strings(tree: ast.Module) -> tuple[dict[str, list[int]], set[int]]:
    """Return the lines of each string of a file, and those of all strings outside of classes."""
    found: dict[str, list[int]] = {}
    outside: set[int] = set()

    def visit(node: ast.AST, in_class: bool) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.setdefault(node.value, []).append(node.lineno)
            if not in_class:
                outside.add(node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child, in_class or isinstance(node, ast.ClassDef))

    visit(tree, in_class=False)
    return found, outside


def _overridden(kind: Any, base: str, methods: dict[str, str]) -> list[tuple[str, Any]]:
    """Return the methods that differ from the built-in ones, with the pattern of what they name."""
    built_in = next(
        each
        for each in kind.__mro__
        if each.__name__ == base and each.__module__.startswith("nanochat.")
    )
    both = [
        (pattern, getattr(kind, name, None), getattr(built_in, name, None))
        for name, pattern in methods.items()
    ]
    return [(pattern, method) for pattern, method, original in both if method is not original]
