"""The commands of the benchmarks: each one has a help text, and names modules and files that exist."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nonempty import nonempty

from bench.command import command_parser, environment_without_root, module_environment

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), BENCH / "README.md"]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def has_main(path: Path) -> bool:
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "main"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


SOURCES = sorted(BENCH.rglob("*.py"))
COMMANDS = {module_name(path): path for path in SOURCES if has_main(path)}
RESULT = re.compile(r"\bresults/[\w/-]+(?:\.[\w-]+)*\.(?:json|csv|md|png)\b")


def commands_in(text: str) -> list[str]:
    return re.findall(r"python -m (bench[\w.]*)", text)


def is_command(module: str) -> bool:
    return module.rstrip(".") in COMMANDS


def test_every_family_has_commands():
    assert {name.split(".")[1] for name in COMMANDS} == {
        "choices", "course", "faults", "inspection", "kernels", "race", "scalar", "serve", "tensor",
    }  # fmt: skip
    assert "bench.race" in COMMANDS
    assert "bench.scalar.start" in COMMANDS


@pytest.fixture(scope="module")
def helps(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Exit status and stdout of `--help` of every command, run as __main__ by one process."""
    code = f"""
import contextlib, io, json, runpy, sys
found = {{}}
for name in {list(COMMANDS)!r}:
    sys.argv = [name, "--help"]
    out, status = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code
    found[name] = (status, out.getvalue())
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path_factory.mktemp("elsewhere"),  # no command needs the repository as its folder
        env=module_environment(COLUMNS="100"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_its_help(name, helps):
    status, text = helps[name]
    assert status == 0
    assert text.startswith(f"usage: python -m {name} ")
    assert "-h, --help" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_named_in_its_docstring(name):
    docstring = ast.get_docstring(ast.parse(COMMANDS[name].read_text(encoding="utf-8")))
    assert docstring is not None
    assert commands_in(docstring)[0] == name


NAMING = [path for path in (*SOURCES, *PAGES) if path.name != "command.py"]  # has only patterns


@pytest.mark.parametrize("path", NAMING, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_are_named_exist(path):
    named = commands_in(path.read_text(encoding="utf-8"))
    if path == BENCH / "README.md":
        named.remove("bench.FAMILY.NAME")
    assert [name for name in named if not is_command(name)] == []


def test_the_readme_of_the_benchmarks_lists_every_command_of_a_user():
    parts = {"bench.kernels.worker", "bench.race.scorer", "bench.tensor.generate_worker"}
    parts |= {"bench.serve.alone", "bench.serve.llama_worker"}
    parts |= {"bench.scalar.microgpt_limits", "bench.scalar.microgpt_ours"}
    text = (BENCH / "README.md").read_text(encoding="utf-8")
    assert (
        set(re.findall(r"^\| `python -m ([\w.]+)`", text, re.MULTILINE)) == COMMANDS.keys() - parts
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_results_and_sources_that_a_page_names_exist(path):
    text = path.read_text(encoding="utf-8")
    results = [name for name in RESULT.findall(text) if not re.search(r"\b[A-Z]{4,}\b", name)]
    assert [name for name in results if not (BENCH / name).exists()] == []
    sources = re.findall(r"\bbench/[\w/]+\.(?:py|args)\b", text)
    named = [name for name in sources if not name.endswith("/NAME.args")]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_record_is_written_to_the_folder_of_its_family(path):
    text = path.read_text(encoding="utf-8")
    family = path.relative_to(BENCH).parts[0]
    names = re.findall(r"""write_result\(f?"([^"]+)\"""", text)
    names += [name.removeprefix("results/") for name in RESULT.findall(text)]
    assert {name.split("/")[0] for name in names} <= {family}


def test_no_benchmark_starts_a_file_by_its_path():
    """Sources of a package run as modules: a file's own folder would hide the standard library."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\[sys\.executable, (str\()?(__file__|Path)", text), path
        assert not re.search(r"(with_name|Path\(__file__\)\.parent /).*\.py\"", text), path


def test_a_parser_takes_the_name_of_its_command_from_the_docstring():
    parser = command_parser(
        """What it measures.\n\n    python -m bench.scalar.draw [--rounds N]\n"""
    )
    assert parser.prog == "python -m bench.scalar.draw"


def test_processes_find_bench_and_the_measured_ones_the_installed_package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/some/folder")
    assert module_environment()["PYTHONPATH"].split(":") == [str(ROOT), "/some/folder"]
    assert module_environment(OMP_NUM_THREADS="3")["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("PYTHONPATH", f"/some/folder:{ROOT}")
    assert environment_without_root()["PYTHONPATH"] == "/some/folder"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert "PYTHONPATH" not in environment_without_root()


def test_every_record_names_its_machine():
    for path in nonempty(sorted((BENCH / "results").rglob("*.json"))):
        assert "environment" in json.loads(path.read_text(encoding="utf-8")), path
