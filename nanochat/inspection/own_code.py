"""Which named arrays a model file computes, and at which of its lines.

An array is the user's own if a method that they override computes it, or if the built-in model does
not have it. Its formula is not known then.
"""

from __future__ import annotations

import re
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
    "norm": r"embed\.norm",
    **dict.fromkeys(
        ("logits", "hidden", "new_cache", "__init__"), r"(layer\d+|embed)\..*|logits.*"
    ),
}


class OwnCode:
    """The methods of the built-in model that a file overrides."""

    def __init__(self, own: ModelFile, mode: str) -> None:
        self._own = own
        self._lines = own.source.decode("utf-8-sig").splitlines()
        model: Any = getattr(own.module, CLASSES[mode])
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
        """Return the line that gives a name to `see`, or the first one of the method."""
        for number, line in enumerate(self._lines, 1):
            if f'"{short}"' in line or f"'{short}'" in line:
                return number
        for method in methods:
            code = getattr(method, "__code__", None)
            if isinstance(code, CodeType) and code.co_filename == self._own.path:
                return code.co_firstlineno
        return 1


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
