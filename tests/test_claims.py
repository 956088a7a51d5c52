"""Every test checks something, on every path through it: no test passes without a claim.

Read from the syntax trees, without a run. What checks: an assert, `pytest.raises` and its relatives,
functions named assert_*, and functions of these tests that check on every path. A loop counts if
what it goes over cannot be empty: a display of elements, a constant in capitals, range(…), or
`nonempty(…)`. A way out of a test before its first check counts as a path without a check.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from nonempty import nonempty

TESTS = Path(__file__).resolve().parent
CHECKS = {"raises", "warns", "deprecated_call", "fail", "skip", "importorskip", "opcheck"}
# Calls whose result is empty only if their arguments are.
KEEP_ELEMENTS = {
    "enumerate",
    "list",
    "tuple",
    "set",
    "sorted",
    "reversed",
    "items",
    "keys",
    "values",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Paths(NamedTuple):
    """Whether statements may be left without a check: at their end, by a return, in a loop."""

    falls: bool
    returns: bool
    skips: bool


class Claims:
    """The functions of some modules, and which of them check something on every path."""

    def __init__(self, modules: Iterable[ast.Module]) -> None:
        self._functions: dict[str, list[Function]] = {}
        self._known: dict[str, bool] = {}
        for module in modules:
            for node in ast.walk(module):
                if isinstance(node, Function):
                    self._functions.setdefault(node.name, []).append(node)

    def checks(self, function: Function) -> bool:
        paths = self._paths(function.body)
        return not (paths.falls or paths.returns)

    def _paths(self, statements: list[ast.stmt]) -> Paths:
        returns = skips = False
        for statement in statements:
            each = self._paths_of(statement)
            returns, skips = returns or each.returns, skips or each.skips
            if not each.falls:
                return Paths(False, returns, skips)
        return Paths(True, returns, skips)

    def _paths_of(self, node: ast.stmt) -> Paths:
        if isinstance(node, ast.Assert | ast.Raise):
            return Paths(False, False, False)
        if isinstance(node, ast.Continue | ast.Break):
            return Paths(False, False, True)
        if isinstance(node, Function | ast.ClassDef):
            return Paths(True, False, False)
        if isinstance(node, ast.If):
            if self._evaluates(node.test):
                return Paths(False, False, False)
            return _either(self._paths(node.body), self._paths(node.orelse))
        if isinstance(node, ast.For | ast.While):
            return self._loop(node)
        if isinstance(node, ast.With | ast.AsyncWith):
            if any(self._evaluates(item.context_expr) for item in node.items):
                return Paths(False, False, False)
            return self._paths(node.body)
        if isinstance(node, ast.Try):
            return self._try(node)
        if any(self._evaluates(each) for each in ast.iter_child_nodes(node)):
            return Paths(False, False, False)
        if isinstance(node, ast.Return):
            return Paths(False, True, False)
        return Paths(True, False, False)

    def _loop(self, node: ast.For | ast.While) -> Paths:
        body = self._paths(node.body)
        runs = _is_full(node.iter) if isinstance(node, ast.For) else _is_true(node.test)
        return Paths(body.falls or body.skips or not runs, body.returns, False)

    def _try(self, node: ast.Try) -> Paths:
        ends = [self._paths(node.body + node.orelse)]
        ends += [self._paths(handler.body) for handler in node.handlers]
        last = self._paths(node.finalbody)
        return last if not last.falls else _either(*ends)

    def _evaluates(self, node: ast.AST) -> bool:
        """Whether the expression certainly calls something that checks."""
        if isinstance(node, ast.Lambda | ast.comprehension):
            return False
        if isinstance(node, ast.Call) and self._is_check(_name(node)):
            return True
        if isinstance(node, ast.IfExp):
            return self._evaluates(node.test)
        if isinstance(node, ast.BoolOp):
            return self._evaluates(node.values[0])
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            return self._evaluates(node.generators[0].iter)
        return any(self._evaluates(each) for each in ast.iter_child_nodes(node))

    def _is_check(self, name: str) -> bool:
        if name == "nonempty":  # says that a loop runs, not what it checks
            return False
        if name in CHECKS or name.startswith("assert_"):
            return True
        if name not in self._known:
            self._known[name] = False  # of a function that calls itself
            functions = self._functions.get(name, [])
            self._known[name] = bool(functions) and all(
                self.checks(each) or self._makes_a_check(each) for each in functions
            )
        return self._known[name]

    def _makes_a_check(self, function: Function) -> bool:
        """Whether it is a fixture that returns a function which checks, such as `refused`."""
        inner = [each for each in ast.walk(function) if isinstance(each, Function)][1:]
        return any(self.checks(each) for each in inner)


def _either(*paths: Paths) -> Paths:
    return Paths(*(any(each) for each in zip(*paths, strict=True)))


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)


def _name(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_full(node: ast.expr) -> bool:
    """Whether a loop over the expression runs at least once, as far as its text tells."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(_is_full(e.value) if isinstance(e, ast.Starred) else True for e in node.elts)
    if isinstance(node, ast.Dict):
        return bool(node.keys)
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.Name | ast.Attribute):
        return (node.id if isinstance(node, ast.Name) else node.attr).isupper()
    if isinstance(node, ast.Subscript):
        return _is_full(node.value)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and (_is_full(node.left) or _is_full(node.right))
    return isinstance(node, ast.Call) and _is_full_call(node)


def _is_full_call(node: ast.Call) -> bool:
    name = _name(node)
    if name in ("nonempty", "range"):
        return True
    if name in ("zip", "product"):
        strict = any(each.arg == "strict" and _is_true(each.value) for each in node.keywords)
        return (any if strict else all)(_is_full(each) for each in node.args)
    if name in KEEP_ELEMENTS:
        return _is_full(node.args[0] if node.args else getattr(node.func, "value", node.func))
    return False


def each_test(module: ast.Module) -> Iterator[Function]:
    for node in ast.walk(module):
        if isinstance(node, Function) and node.name.startswith("test_"):
            yield node


def test_every_test_checks_something_on_every_path() -> None:
    modules = {path: ast.parse(path.read_text("utf-8")) for path in sorted(TESTS.rglob("*.py"))}
    claims = Claims(modules.values())
    every = [(path, test) for path, module in modules.items() for test in each_test(module)]
    assert len(every) > 2000
    assert [
        f"{path.relative_to(TESTS)}:{test.lineno}: {test.name}"
        for path, test in every
        if not claims.checks(test)
    ] == []


HELPERS = """
def check(x):
    assert x

def maybe(x):
    if x:
        assert x > 1

def refused():
    def run(x):
        check(x)
    return run
"""
CLAIMS = {
    "an assert": "assert x",
    "a helper": "y = check(x)",
    "a function from a fixture": "refused(x)",
    "a failure that is expected": "with pytest.raises(ValueError):\n f(x)",
    "a comparison of arrays": "np.testing.assert_allclose(x, 1)",
    "both branches": "if x:\n assert x\nelse:\n check(x)",
    "a branch that returns after its check": "if x:\n assert x\n return\nassert not x",
    "a loop over elements": "for y in (1, 2):\n assert y",
    "a loop over a constant": "for y, z in NAMES.items():\n assert y",
    "a loop over what is not empty": "for i, y in enumerate(nonempty(x)):\n assert y",
    "a strict zip with elements": "for y, z in zip(x, [1, 2], strict=True):\n assert y",
    "a result and its error": "try:\n y = f(x)\nexcept E as e:\n assert str(e)\nelse:\n assert y",
}  # fmt: skip
NO_CLAIMS = {
    "nothing": "f(x)",
    "a helper that checks on one path": "maybe(x)",
    "one branch": "if x:\n assert x",
    "a way out": "if x:\n return\nassert x",
    "a loop over anything": "for y in x:\n assert y",
    "a loop with only a check of its length": "for y in nonempty(x):\n f(y)",
    "a loop that skips": "for y in (1, 2):\n if y in x:\n  continue\n assert y",
    "a zip that is not strict": "for y, z in zip(x, [1, 2]):\n assert y",
    "an error that may not happen": "try:\n f(x)\nexcept E as e:\n assert str(e)",
    "a check in a function that is not called": "def inner():\n assert x",
    "a check in a lambda": "f(lambda: check(x))",
    "a check per element of anything": "[check(y) for y in x]",
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        *(pytest.param(body, True, id=name) for name, body in CLAIMS.items()),
        *(pytest.param(body, False, id=name) for name, body in NO_CLAIMS.items()),
    ],
)
def test_paths_without_a_check_are_found(body: str, expected: bool) -> None:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    module = ast.parse(f"{HELPERS}\ndef test_x():\n{lines}")
    (test,) = each_test(module)
    assert Claims([module]).checks(test) is expected


def test_nonempty_returns_the_items_and_refuses_none() -> None:
    assert nonempty(iter("ab")) == ["a", "b"]
    with pytest.raises(AssertionError, match="^nothing to check"):
        nonempty([])
