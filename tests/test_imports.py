"""The floors of the house, read from the sources, and what an import loads in a new process."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from nonempty import nonempty

PACKAGE = Path(__file__).resolve().parent.parent / "nanochat"

# Top to bottom. A room may import from the floors below its own and from itself.
FLOORS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"serving"},
    {"api"},
    {"output"},
    {"inspection"},
    {"exporting"},
    {"runs"},
    {"engines"},
    {"scalar", "tensor"},
    {"ops"},
    {"sampling"},
    {"training"},
    {"model"},
    {"ngram"},
    {"data"},
    {"config"},
    {"system", "native"},
    {"errors", "philox", "_scalar"},
)
# The package itself names everything it offers, and imports it only when it is asked for.
FRONT_DOOR = "__init__"


def floor_of(room: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if room in floor)


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every module that the statements below `tree` import, absolute, one dotted name each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room they come from"
            assert node.module is not None
            yield node, node.module
            if node.module == "nanochat":
                yield from ((node, f"nanochat.{alias.name}") for alias in node.names)


def rooms_imported(tree: ast.AST) -> set[str]:
    names = {name for _, name in imported_modules(tree)}
    return {name.split(".")[1] for name in names if name.startswith("nanochat.")}


def runs_at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Import statements outside functions and outside `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        waiting += ast.iter_child_nodes(node)


def test_every_room_has_a_floor():
    for room in nonempty({room_of(path) for path in sources()} - {FRONT_DOOR}):
        assert any(room in floor for floor in FLOORS), room


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_room_imports_only_floors_below_it(path):
    room = room_of(path)
    imported = rooms_imported(ast.parse(path.read_text(encoding="utf-8"))) - {room}
    assert room == FRONT_DOOR or [o for o in imported if floor_of(o) <= floor_of(room)] == []


def test_the_walk_sees_a_breach():
    tree = ast.parse("def f():\n    from nanochat import cli\n    import nanochat.tensor.engine\n")
    assert rooms_imported(tree) == {"cli", "tensor"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each module imports, inside functions and for type checking included."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        imported = set()
        for node, name in imported_modules(ast.parse(source)):
            inner = {f"{name}.{alias.name}" for alias in node.names} & sources.keys()
            imported |= inner if isinstance(node, ast.ImportFrom) and inner else {name}
        graph[module] = imported & sources.keys() - {module}
    return graph


def import_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one cycle, or of none."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module not in finished:
            for other in sorted(graph[module]):
                if cycle := visit(other, [*path, module]):
                    return cycle
            finished.add(module)
        return []

    return next((cycle for module in sorted(graph) if (cycle := visit(module, []))), [])


def test_modules_import_each_other_in_no_cycle():
    files = [*sources(), *PACKAGE.rglob("*.pyi")]  # stubs are the compiled modules
    texts = {module_name(path): path.read_text(encoding="utf-8") for path in files}
    assert " → ".join(import_cycle(module_graph(texts))) == ""


@pytest.mark.parametrize(
    "closing",
    ["from p.a import x", "from p import a", "import p.a", "def f():\n    from p.a import x",
     "if TYPE_CHECKING:\n    from p.a import X"],
)  # fmt: skip
def test_the_walk_sees_a_cycle(closing):
    modules = {"p": "", "p.a": "from p import b", "p.b": "from p.c import y", "p.c": closing}
    assert import_cycle(module_graph(modules)) == ["p.a", "p.b", "p.c"]
    assert import_cycle(module_graph({**modules, "p.c": "import p.d", "p.d": ""})) == []


def test_the_front_door_imports_nothing_until_it_is_asked():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    modules = {name for node in runs_at_import(tree) for _, name in imported_modules(node)}
    assert modules == {"__future__", "importlib", "os", "typing"}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_torch_is_imported_by_tensor_and_ops_alone(path):
    """And inside functions of exporting, which reads with torch what it has written for others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = runs_at_import(tree) if room_of(path) == "exporting" else [tree]
    assert room_of(path) in ("tensor", "ops") or not [
        name
        for node in statements
        for _, name in imported_modules(node)
        if name.split(".")[0] == "torch"
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_outside_tensor_load_tensor_and_ops_only_inside_functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    loaded = {room for node in runs_at_import(tree) for room in rooms_imported(node)}
    assert room_of(path) in ("tensor", "ops") or not loaded & {"tensor", "ops"}


# ---------------------------------------------------------------------- what a process has loaded


def loaded_after(python, code: str, cwd: Path) -> set[str]:
    """Top-level names in sys.modules after `code`, which must succeed, in a new process."""
    tell = "print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    script = f"import sys, json\n{code}\nsys.stdout.flush()\n{tell}"
    done = python("-c", script, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_nanochat_loads_neither_numpy_nor_torch(python, tmp_path):
    loaded = loaded_after(python, "import nanochat; dir(nanochat)", tmp_path)
    assert not loaded & {"numpy", "torch", "numba", "matplotlib", "argparse", "rich"}


def test_a_config_and_a_refusal_load_neither_numpy_nor_torch(python, tmp_path):
    code = "import nanochat\ntry: nanochat.TrainConfig(steps=-1)\nexcept ValueError: raise\n"
    code = code.replace("ValueError: raise", "nanochat.NanochatError: pass")
    assert not loaded_after(python, code, tmp_path) & {"numpy", "torch"}


SCALAR_COMMANDS = {
    "--help": [["--help"]],
    "train --help": [["train", "--help"]],
    "info": [["info"]],
    "train, sample, eval": [
        ["train", "--mode=scalar", "--model-kind=bigram", "--n-embd=4", "--steps=2",
         "--eval-tokens=20", "--batch-size=2", "--num-samples=2", "--out=run"],
        ["sample", "--checkpoint=run"],
        ["sample", "--checkpoint=run", "--explain", "--report-copies=3"],
        ["eval", "--checkpoint=run", "--baselines"],
        ["sample", "--from-counts", "--num-samples=2"],
        ["ablate", "--model-kind=bigram", "--mode=scalar", "--n-embd=4", "--steps=1",
         "--eval-tokens=20", "--batch-size=2", "--seeds=1", "--vary=tie_lm_head=true,false"],
    ],
}  # fmt: skip


@pytest.mark.parametrize("commands", SCALAR_COMMANDS.values(), ids=SCALAR_COMMANDS)
def test_commands_of_the_scalar_engine_never_import_torch(python, commands, tmp_path):
    code = "from nanochat.cli import main\n" + "\n".join(
        f"assert main({words!r}) == 0" for words in commands
    )
    assert "torch" not in loaded_after(python, code, tmp_path)


UNUSED = {
    "nanochat.commands.init_from", "nanochat.commands.time_budget", "nanochat.config.help_page",
    "nanochat.config.schedule_points", "nanochat.runs.load", "nanochat.training.deadline",
    "nanochat.data.bpe", "cffi", "importlib.metadata", "numpy.ma", "psutil", "rich", "tempfile",
    "urllib.request",
}  # fmt: skip


def test_a_run_of_microgpt_imports_nothing_that_it_does_not_use(python, tmp_path):
    words = ["train", "--preset=microgpt", "--steps=1", "--num-samples=1"]
    code = f"from nanochat.cli import main\nassert main({words!r}) == 0\n"
    code += f"assert not {UNUSED!r} & set(sys.modules), {UNUSED!r} & set(sys.modules)"
    loaded_after(python, code, tmp_path)


def test_a_loaded_scalar_model_never_imports_torch(python, tmp_path):
    code = (
        "import nanochat\n"
        "options = dict(mode='scalar', model_kind='bigram', n_embd=4, steps=2, eval_tokens=20)\n"
        "run = nanochat.train(nanochat.TrainConfig(**options, batch_size=2, num_samples=0)).run\n"
        "model = nanochat.load(run)\n"
        "model.generate('an'), list(model.stream('an')), model.next_tokens('an'), model.loss('anna')\n"
        "repr(model), model.weights, model.write_model_py()\n"
    )
    assert "torch" not in loaded_after(python, code, tmp_path)


def test_help_loads_neither_numpy_nor_any_command(python, tmp_path):
    code = "from nanochat.cli import main\nassert main(['train', '--help']) == 0"
    assert not loaded_after(python, code, tmp_path) & {"numpy", "numba", "matplotlib", "psutil"}


def test_the_tensor_engine_loads_no_compiler_before_it_compiles(python, tmp_path):
    """torch's own takes as long to load as torch."""
    words = ["train", "--mode=tensor", "--model-kind=bigram", "--n-embd=4", "--steps=2",
             "--eval-tokens=20", "--batch-size=2", "--num-samples=1"]  # fmt: skip
    code = f"from nanochat.cli import main\nassert main({words!r}) == 0\n"
    code += "assert not {'torch._dynamo', 'torch._inductor'} & set(sys.modules)"
    assert "torch" in loaded_after(python, code, tmp_path)
