"""The README names options and presets that exist. tests/test_docs.py runs its examples."""

from __future__ import annotations

import re
from pathlib import Path

from nanochat.config.options import PRESETS, TrainConfig

README = Path(__file__).resolve().parent.parent / "README.md"


def test_options_and_presets_that_the_readme_names_exist():
    text = README.read_text(encoding="utf-8")
    from test_cli import surface

    known = {flag for options in surface().values() for flag in options}
    known |= {"--help", "--help-all", "--config", "--quiet", "--json", "--install-completion"}
    known |= {"--nproc-per-node"}
    for line in text.splitlines():
        for command in re.findall(r"nanochat [^`#|]*", line):
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", command):
                assert flag in known or flag.replace("--no-", "--") in known, line
    for preset in re.findall(r"--preset ([\w-]+)", text):
        assert preset in PRESETS
    assert TrainConfig(mode="tensor").preset in PRESETS
