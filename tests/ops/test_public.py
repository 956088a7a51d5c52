"""nanochat.ops exports three documented functions in every import order."""

from __future__ import annotations

import doctest
import importlib
import inspect
import itertools
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat import ops

FUNCTIONS = ("cross_entropy", "linear_cross_entropy", "sample")
PRIVATE = sorted(module.name for module in pkgutil.iter_modules(ops.__path__))
# Each of these runs in a new process: the modules that define ops, in every order.
ORDERS = list(itertools.permutations(f"_{name}" for name in FUNCTIONS))

IMPORT_IN_ORDER = """
import sys, types
from importlib import import_module
for name in sys.argv[1:]:
    import_module(f"nanochat.ops.{name}")
import nanochat.ops
for name in nanochat.ops.__all__:
    assert type(getattr(nanochat.ops, name)) is types.FunctionType, name
"""


def test_it_exports_three_functions() -> None:
    assert sorted(ops.__all__) == sorted(FUNCTIONS)
    assert all(inspect.isfunction(getattr(ops, name)) for name in FUNCTIONS)


def test_no_module_has_the_name_of_a_function() -> None:
    # An import of nanochat.ops.NAME would put the module in the place of the function.
    assert not set(PRIVATE) & set(FUNCTIONS)


@pytest.mark.parametrize("order", [PRIVATE, PRIVATE[::-1]], ids=["sorted", "reversed"])
def test_importing_every_module_first_leaves_functions(order: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORT_IN_ORDER, *order]
    assert subprocess.run(command, cwd=tmp_path, timeout=300).returncode == 0


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_importing_the_modules_again_in_any_order_leaves_functions(order: tuple[str, ...]) -> None:
    for name in order:
        importlib.import_module(f"nanochat.ops.{name}")
    assert all(inspect.isfunction(getattr(ops, name)) for name in FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_docstring_explains_every_argument_and_its_example_runs(name: str) -> None:
    function = getattr(ops, name)
    text = inspect.getdoc(function)
    assert text is not None
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in text, argument
    for section in ("Args:", "Returns:", "Raises:", "Note:", "Example:"):
        assert f"\n{section}\n" in text, section
    examples = doctest.DocTestFinder().find(function, name, globs={})
    assert len(examples) == 1
    result = doctest.DocTestRunner().run(examples[0])
    assert result.attempted >= 5
    assert not result.failed
