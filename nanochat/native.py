"""Loads the compiled kernels and turns their statuses into exceptions. Knows no torch.

The declarations that cffi reads are the file that the compiler read (csrc/kernels/abi.h), installed
beside the libraries. NCLAB_KERNELS names the folder of another build, such as one with sanitizers.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import cffi

from nanochat.errors import KernelError

__all__ = [
    "DTYPES",
    "REDUCTIONS",
    "address",
    "check",
    "cpu",
    "cuda",
    "ffi",
    "kernel",
    "take_buffer",
]

ABI_VERSION = 4
DTYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}

_REINSTALL = "install nanochat-lab again (pip install .)"


def _folder() -> Path:
    """Where the compiled files of this package are; an editable install has them elsewhere."""
    if chosen := os.environ.get("NCLAB_KERNELS"):
        return Path(chosen).absolute()
    spec = importlib.util.find_spec("nanochat._scalar")
    if spec is None or spec.origin is None:
        raise KernelError(f"the compiled files of nanochat are missing; {_REINSTALL}")
    return Path(spec.origin).parent


def _file_name(name: str) -> str:
    if sys.platform == "win32":
        return f"{name}.dll"
    return f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"


def _declared() -> cffi.FFI:
    path = _folder() / "nck_abi.h"
    declarations = cffi.FFI()
    try:
        declarations.cdef(path.read_text(encoding="utf-8"))
    except OSError:
        raise KernelError(
            f"the kernels' declarations {path} cannot be read; {_REINSTALL}"
        ) from None
    return declarations


ffi: Any = _declared()


def _load(name: str, remedy: str) -> Any:
    path = _folder() / _file_name(name)
    try:
        library = ffi.dlopen(str(path))
        version = library.nck_abi_version()
    except (OSError, AttributeError) as error:  # AttributeError: a library of something else
        raise KernelError(
            f"the kernel library {path} cannot be loaded ({error}); {remedy}"
        ) from None
    if version != ABI_VERSION:
        raise KernelError(
            f"the kernel library {path} has ABI version {version}, this nanochat needs"
            f" {ABI_VERSION}; {remedy}"
        )
    return library


@cache
def cpu() -> Any:
    """The CPU kernels. Raises KernelError where they are missing or of another version."""
    return _load("nck", f"{_REINSTALL}")


@cache
def cuda() -> Any:
    """The CUDA kernels, which are built where nvcc is. Raises KernelError as `cpu` does."""
    remedy = "install nanochat-lab again where nvcc is found"
    return _load("nck_cuda", remedy)


@cache
def kernel(name: str) -> Any:
    """The function nck_<name>, called with addresses as plain integers in place of pointers.

    Casts to pointers cost more than the call. Raises KernelError as `cpu` and `cuda` do.
    """
    library = cuda() if name.startswith("cuda_") else cpu()
    function = getattr(library, f"nck_{name}")
    declared = ffi.typeof(function)
    taken = ["intptr_t" if a.kind == "pointer" else a.cname for a in declared.args]
    return ffi.cast(f"{declared.result.cname} (*)({', '.join(taken)})", function)


def check(status: int, library: Any) -> None:
    """Raise KernelError with the library's own message unless the status is NCK_OK."""
    if status:
        raise KernelError(ffi.string(library.nck_last_error()).decode())


def address(structure: Any) -> int:
    """Where a structure made by `ffi.new` lies, as `kernel` takes it; keep the structure."""
    return int(ffi.cast("intptr_t", structure))


def take_buffer(size: int) -> Any:
    """A writable buffer of `size` bytes from the kernels' store; it goes back when unused.

    Worth it from about a megabyte on: fresh pages cost more than filling them.
    """
    library = cpu()
    pointer = ffi.new("void **")
    check(library.nck_take_buffer(size, pointer), library)
    owned = ffi.gc(pointer[0], library.nck_give_buffer)
    return ffi.buffer(owned, size)
