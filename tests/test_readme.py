"""The README's examples, run as they stand.

The convention: every ```python block runs by itself in an empty folder; in ```console blocks every
line that starts with `$ nanochat` runs, all of them in one folder, from the top of the README to
its end, and must exit with 0. Lines without `$` are output, and other fences (```sh) are not run.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nanochat.config.options import PRESETS, TrainConfig

README = Path(__file__).resolve().parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def console_lines() -> list[str]:
    lines = "".join(blocks("console")).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ nanochat")]


def test_the_readme_has_examples_of_both_kinds():
    assert len(blocks("python")) >= 2
    commands = {shlex.split(line)[1] for line in console_lines()}
    assert commands >= {"train", "sample", "eval", "ablate", "info"}


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_a_python_example_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[number]
    exec(compile(code, f"README.md, python example {number + 1}", "exec"), {})


def test_the_console_examples_run_in_their_order(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    for line in console_lines():
        result = cli(*shlex.split(line)[1:])
        assert result.code == 0, (line, result.err)
        assert result.out, line


def test_options_and_presets_that_the_readme_names_exist():
    text = README.read_text(encoding="utf-8")
    from test_cli import surface

    known = {flag for options in surface().values() for flag in options}
    known |= {"--help", "--help-all", "--config", "--quiet", "--json", "--install-completion"}
    for line in text.splitlines():
        for command in re.findall(r"nanochat [^`#|]*", line):
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", command):
                assert flag in known or flag.replace("--no-", "--") in known, line
    for preset in re.findall(r"--preset ([\w-]+)", text):
        assert preset in PRESETS
    assert TrainConfig(mode="tensor").preset in PRESETS
