"""nanochat.native: missing and incompatible libraries, and statuses as exceptions."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cffi
import pytest
from native.calls import Loss, nck_loss

from nanochat import native
from nanochat.errors import KernelError

Python = Callable[..., "subprocess.CompletedProcess[str]"]
REINSTALL = "install nanochat-lab again (pip install .)"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that NCLAB_KERNELS names."""
    monkeypatch.setenv("NCLAB_KERNELS", str(tmp_path))
    return tmp_path


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(KernelError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def library(folder: Path, version: int) -> Path:
    """Build a library with only an ABI version."""
    if COMPILER is None:
        pytest.skip("no C compiler here")
    source, path = folder / "other.c", folder / native._file_name("nck")
    source.write_text(f"int nck_abi_version(void) {{ return {version}; }}\n")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    return path


def test_a_missing_library_is_named_with_a_way_out(kernels: Path) -> None:
    path = kernels / native._file_name("nck")
    message = refusal(native.cpu.__wrapped__)
    assert message.startswith(f"the kernel library {path} cannot be loaded (")
    assert message.endswith(f"); {REINSTALL}")


def test_a_missing_cuda_library_is_named_with_a_way_out(kernels: Path) -> None:
    message = refusal(native.cuda.__wrapped__)
    assert str(kernels / native._file_name("nck_cuda")) in message
    assert message.endswith("; install nanochat-lab again on a machine with nvcc")


def test_a_file_that_is_no_library_is_refused(kernels: Path) -> None:
    (kernels / native._file_name("nck")).write_text("no library")
    assert "cannot be loaded (" in refusal(native.cpu.__wrapped__)


@pytest.mark.parametrize("version", [0, native.ABI_VERSION - 1, native.ABI_VERSION + 1, -1])
def test_a_library_of_another_version_is_refused(kernels: Path, version: int) -> None:
    path = library(kernels, version)
    assert refusal(native.cpu.__wrapped__) == (
        f"the kernel library {path} has ABI version {version}, this nanochat needs"
        f" {native.ABI_VERSION}; {REINSTALL}"
    )


def test_a_library_without_a_version_is_refused(kernels: Path) -> None:
    path = library(kernels, 2)
    source = kernels / "other.c"
    source.write_text("int nothing(void) { return 0; }\n")
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    message = refusal(native.cpu.__wrapped__)
    assert message.startswith(f"the kernel library {path} cannot be loaded (")
    assert "nck_abi_version" in message


def test_a_missing_header_is_named(kernels: Path) -> None:
    assert refusal(native._declared) == (
        f"the kernels' declarations {kernels / 'nck_abi.h'} cannot be read; {REINSTALL}"
    )


def test_compiled_declarations_are_used_only_for_their_header(kernels: Path) -> None:
    header = b"int nck_abi_version(void);"
    (kernels / "nck_abi.h").write_bytes(header)
    digest = hashlib.sha256(header).hexdigest()
    (kernels / "nck_abi.cffi").write_text(f"# {digest}\nffi = 'compiled'\n")
    assert native._declared() == "compiled"
    (kernels / "nck_abi.h").write_bytes(header + b"int nck_more(int);")
    assert isinstance(native._declared(), cffi.FFI)
    (kernels / "nck_abi.h").write_bytes(header)
    (kernels / "nck_abi.cffi").write_text(f"# {digest}\nraise ImportError('of another cffi')\n")
    assert isinstance(native._declared(), cffi.FFI)


def test_declarations_compiled_by_the_build_are_those_of_the_header(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "csrc" / "kernels" / "declarations.py"
    path, header = tmp_path / "nck_abi.cffi", native._folder() / "nck_abi.h"
    subprocess.run([sys.executable, str(script), str(header), str(path)], check=True)
    compiled = native._compiled_declarations(path, header.read_bytes())
    parsed = cffi.FFI()
    parsed.cdef(header.read_text(encoding="utf-8"))
    library = native._folder() / native._file_name("nck")
    sides = [(ffi, ffi.dlopen(str(library))) for ffi in (compiled, parsed)]
    for name in ("nck_abi_version", "nck_cross_entropy", "nck_decode", "nck_sample_mixture"):
        types = [ffi.typeof(getattr(found, name)).cname for ffi, found in sides]
        assert len({each.replace("struct ", "") for each in types}) == 1
    assert len({ffi.sizeof("nck_gpt") for ffi, _ in sides}) == 1


def test_a_package_without_compiled_files_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCLAB_KERNELS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal(native._folder) == f"the compiled files of nanochat are missing; {REINSTALL}"


def test_the_version_here_is_the_headers() -> None:
    assert native.cpu().NCK_ABI_VERSION == native.ABI_VERSION
    assert native.cpu().nck_abi_version() == native.ABI_VERSION


def test_types_and_reductions_here_are_the_headers() -> None:
    for name, value in {**native.DTYPES, **native.REDUCTIONS}.items():
        assert getattr(native.cpu(), f"NCK_{name.upper()}") == value


def test_a_status_becomes_an_exception_with_the_librarys_words() -> None:
    library, null = native.cpu(), native.ffi.NULL
    status = library.nck_cross_entropy(
        null, 0, 0, 0, 0, null, null, null, nck_loss(Loss()), null, 0, null, 0, null, null, null, 1
    )
    assert refusal(lambda: native.check(status, library)) == "vocab must be in [1, 2^30], got 0"
    native.check(0, library)


def test_the_library_needs_no_torch(python: Python) -> None:
    code = "import sys; from nanochat import native; native.cpu(); print('torch' in sys.modules)"
    assert python("-I", "-c", code).stdout.strip() == "False"
