"""The same options give the same bits: twice, and whatever else differs around the process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT
from faults.commands import final_state

STEPS = 12
COMMON = (
    "--data=names.txt", f"--steps={STEPS}", "--eval-every=5", "--eval-tokens=60",
    "--num-samples=2", "--max-new-tokens=5", "--quiet",
)  # fmt: skip
RUNS = {
    "scalar": ("--mode=scalar", "--preset=pico", "--n-embd=8", "--n-head=2", "--n-layer=1",
               "--batch-size=40"),
    "tensor": ("--mode=tensor", "--preset=mini", "--n-embd=16", "--n-layer=1", "--dropout=0.1",
               "--threads=1"),
}  # fmt: skip
# What differs → words of the command and variables of the environment
AROUND: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "a second time": ((), {}),
    "hash seed": ((), {"PYTHONHASHSEED": "7"}),
    "locale": ((), {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}),
    "locale C": ((), {"LC_ALL": "C", "PYTHONUTF8": "0"}),
    "time zone": ((), {"TZ": "Asia/Kathmandu"}),
    "columns": ((), {"COLUMNS": "40"}),
}
# More threads give the same bits only on the scalar engine (docs/reliability.md).
THREADS: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "one thread": (("--threads=1",), {}),
    "two threads": (("--threads=2",), {}),
}


def state(folder: Path, mode: str, words: tuple[str, ...], around: Mapping[str, str]) -> Any:
    """Return what a run in a new folder computes, and its samples."""
    folder.mkdir()
    (folder / "names.txt").write_text(TEXT, encoding="utf-8")
    command = [sys.executable, "-m", "nanochat", "train", *COMMON, *RUNS[mode], *words]
    done = subprocess.run(
        [*command, "--out=run"], cwd=folder, env={**os.environ, **around}, capture_output=True,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    samples = [line for line in done.stdout.splitlines() if line.startswith("sample ")]
    assert len(samples) == 2
    return final_state(folder / "run", STEPS), samples


@pytest.mark.parametrize("mode", RUNS)
def test_what_is_around_the_process_changes_no_bit(tmp_path: Path, mode: str) -> None:
    expected = state(tmp_path / "a", mode, (), {})
    cases = {**AROUND, **(THREADS if mode == "scalar" else {})}
    found = {
        name: state(tmp_path / f"a folder for {name}", mode, *case) for name, case in cases.items()
    }
    assert [name for name, value in found.items() if value != expected] == []


@pytest.mark.long
def test_twenty_runs_have_the_same_bits(tmp_path: Path, tried: Callable[..., None]) -> None:
    for mode in RUNS:
        runs = [state(tmp_path / f"{mode}-{i}", mode, (), {}) for i in range(20)]
        assert all(run == runs[0] for run in runs), mode
        tried(runs=20)
