"""Each instruction set that this processor supports, tested in a separate process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat import native

HERE = Path(__file__).parent
CLAIMS = (
    "test_adamw.py", "test_blocks.py", "test_cross_entropy.py", "test_decode.py", "test_dropout.py", "test_embed.py",
    "test_guard_pages.py", "test_mixture.py", "test_scale_rows.py", "test_special_rows.py",
)  # fmt: skip
Python = Callable[..., "subprocess.CompletedProcess[str]"]

CALL = """
from nanochat import native
library = native.cpu()
print(native.ffi.string(library.nck_target()).decode())
native.check(library.nck_scale_rows(native.ffi.NULL, 0, 1, 1, 0, native.ffi.NULL, 0, native.ffi.NULL, 1, 1), library)
"""


def environment(name: str) -> dict[str, str]:
    return {**os.environ, "NCLAB_SIMD": name}


def target(python: Python, name: str) -> str:
    return python("-I", "-c", CALL, env=environment(name)).stdout.strip()


@pytest.mark.parametrize("name", ["avx512bf16", "avx512", "avx2", "portable"])
def test_every_instruction_set_keeps_the_bounds(name: str, python: Python) -> None:
    found = target(python, name)
    if found == "none":
        pytest.skip(f"this processor does not run {name}")
    assert found == name
    if native.ffi.string(native.cpu().nck_target()).decode() == name:
        return  # the other tests have run it
    words = ["-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    claims = [str(HERE / each) for each in CLAIMS]
    result = python(*words, *claims, env=environment(name), cwd=HERE.parent.parent)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_one_set_always_runs(python: Python) -> None:
    assert target(python, "portable") == "portable"
    assert target(python, "") in ("avx512bf16", "avx512", "avx2", "portable")


@pytest.mark.parametrize("name", ["nonsense", "AVX2", " "])
def test_a_set_that_is_none_is_an_error_and_no_crash(name: str, python: Python) -> None:
    result = python("-I", "-c", CALL, env=environment(name))
    assert result.stdout.strip() == "none"
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "nanochat.errors.KernelError: NCLAB_SIMD must be avx512bf16, avx512, avx2 or portable,"
        f" and one that this processor runs; got '{name}'"
    )


def test_the_reported_set_runs_even_if_the_variable_changes_later(
    python: Python,
) -> None:
    later = CALL + (
        "import os; os.environ['NCLAB_SIMD'] = 'nonsense'\n"
        "print(native.ffi.string(library.nck_target()).decode())"
    )
    assert python("-I", "-c", later, env=environment("portable")).stdout.split() == ["portable"] * 2
