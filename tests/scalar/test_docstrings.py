"""Documentation of the public scalar API: examples run, signatures and stubs match."""

from __future__ import annotations

import ast
import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest

import nanochat
from nanochat import _scalar
from nanochat.scalar.value import Tape

STUB = Path(nanochat.__file__).with_name("_scalar.pyi")
WITH_EXAMPLES = {
    "Value": nanochat.Value,
    "Value.backward": nanochat.Value.backward,
    "Matrix": nanochat.Matrix,
    "Tape": Tape,
    "compile": nanochat.compile,
    "select": nanochat.select,
    "detached_max": nanochat.detached_max,
    "Program": nanochat.Program,
}
DOCUMENTED: dict[str, Any] = {
    **WITH_EXAMPLES,
    **{
        f"{cls.__name__}.{name}": getattr(cls, name)
        for cls in (nanochat.Value, nanochat.Matrix, nanochat.Program, Tape)
        for name in vars(cls)
        if not name.startswith("_")
    },
}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_example_of_the_docstring_runs(name: str):
    test = doctest.DocTestParser().get_doctest(
        inspect.cleandoc(WITH_EXAMPLES[name].__doc__), {}, name, None, 0
    )
    assert test.examples
    report: list[str] = []
    failed, _ = doctest.DocTestRunner().run(test, out=report.append)
    assert failed == 0, "".join(report)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_member_has_a_docstring_without_its_signature(name: str):
    doc = DOCUMENTED[name].__doc__
    assert doc is not None and len(doc) > 20
    assert "--\n" not in doc and "::" not in doc and "SupportsInt" not in doc


def test_signatures_have_the_names_of_the_arguments():
    matrix = nanochat.Matrix([[1.0]])
    expected = {
        nanochat.Value: "(data=0.0)",
        nanochat.Value.exp: "(self, /)",
        nanochat.select: "(values, index)",
        nanochat.detached_max: "(values)",
        nanochat.Matrix: "(rows)",
        matrix.row: "(token)",
        Tape: "(dtype='float64')",
        Tape().matrix: "(rows, cols)",
    }
    assert {str(inspect.signature(f)) for f in expected} == set(expected.values())
    for function, signature in expected.items():
        assert str(inspect.signature(function)) == signature


def stub_docstrings() -> dict[str, str]:
    """Docstrings of the stub by qualified name; of overloads, the first."""
    found: dict[str, str] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                doc = ast.get_docstring(node)
                if doc is not None:
                    found.setdefault(prefix + node.name, doc)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
                assert isinstance(node.target, ast.Name)
                assert isinstance(following.value, ast.Constant)
                found[prefix + node.target.id] = inspect.cleandoc(following.value.value)

    visit(ast.parse(STUB.read_text(encoding="utf-8")).body, "")
    return found


def test_the_stub_has_the_docstrings_of_the_extension():
    docs = stub_docstrings()
    assert {"Value", "Value.data", "Value.exp", "Matrix.row", "select", "Tape.bytes"} <= set(docs)
    for name, doc in docs.items():
        member: Any = _scalar
        for part in name.split("."):
            member = getattr(member, part)
        assert inspect.cleandoc(member.__doc__) == doc, name
