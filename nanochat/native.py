"""The compiled kernels: loads the libraries and turns statuses into exceptions. No torch.

cffi reads the same declarations as the compiler (csrc/kernels/abi.h). They are installed with the
libraries, and once more in a compiled form if the build found cffi. NCLAB_KERNELS names the folder
of another build, such as one with sanitizers.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from nanochat.errors import KernelError, LogitsError

__all__ = [
    "DTYPES",
    "REDUCTIONS",
    "STATUS_LOGITS",
    "address",
    "check",
    "cpu",
    "cpu_by_ctypes",
    "cuda",
    "ffi",  # noqa: F822  # by __getattr__
    "kernel",
    "take_buffer",
]

ABI_VERSION = 13
DTYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}

STATUS_LOGITS = 3  # NCK_LOGITS of abi.h

_REINSTALL = "install nanochat-lab again (pip install .)"


def _folder() -> Path:
    """Return the folder of the compiled files, which an editable install keeps elsewhere."""
    if chosen := os.environ.get("NCLAB_KERNELS"):
        return Path(chosen).absolute()
    spec = importlib.util.find_spec("nanochat._scalar")
    if spec is None or spec.origin is None:
        raise KernelError(f"the compiled files of nanochat are missing; {_REINSTALL}")
    return Path(spec.origin).parent


def _file_name(name: str) -> str:
    return f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"


def _declared() -> Any:
    folder = _folder()
    path = folder / "nck_abi.h"
    try:
        header = path.read_bytes()
    except OSError:
        raise KernelError(
            f"the kernels' declarations {path} cannot be read; {_REINSTALL}"
        ) from None
    compiled = _compiled_declarations(folder / "nck_abi.cffi", header)
    if compiled is not None:
        return compiled
    import cffi  # importing it and reading the declarations takes longer than many short runs

    declarations = cffi.FFI()
    declarations.cdef(header.decode())
    return declarations


def _compiled_declarations(path: Path, header: bytes) -> Any:
    """Return the cffi.FFI that csrc/kernels/declarations.py made of the header, or None."""
    try:
        code = path.read_text(encoding="utf-8")
    except OSError:
        return None
    if not code.startswith(f"# {hashlib.sha256(header).hexdigest()}\n"):
        return None  # of another build
    names: dict[str, Any] = {}
    try:
        exec(code, names)
    except ImportError:  # cffi is missing, or not the version that compiled them
        return None
    return names["ffi"]


@cache
def _ffi() -> Any:
    return _declared()


def __getattr__(name: str) -> Any:
    """Provide `ffi`, the cffi.FFI with the kernels' declarations, when it is first used."""
    if name != "ffi":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["ffi"] = _ffi()
    return globals()["ffi"]


def _load(name: str, remedy: str, by_ctypes: bool = False) -> Any:
    path = _folder() / _file_name(name)
    # Without the function, it is not a library of kernels. cffi has its own error for that.
    missing = AttributeError if by_ctypes else getattr(_ffi(), "error", AttributeError)
    try:
        library = (ctypes.CDLL if by_ctypes else _ffi().dlopen)(str(path))
        version = library.nck_abi_version()
    except (OSError, AttributeError, missing) as error:
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
    """Return the CPU kernels. Raises KernelError if they are missing or of another version."""
    return _load("nck", f"{_REINSTALL}")


@cache
def cpu_by_ctypes() -> Any:
    """Return the CPU kernels as a ctypes library, for code that runs before cffi is needed.

    The caller declares the types of the arguments. Raises KernelError as `cpu` does.
    """
    return _load("nck", f"{_REINSTALL}", by_ctypes=True)


@cache
def cuda() -> Any:
    """Return the CUDA kernels, which are built only with nvcc. Raises KernelError as `cpu` does."""
    remedy = "install nanochat-lab again on a machine with nvcc"
    return _load("nck_cuda", remedy)


@cache
def kernel(name: str) -> Any:
    """Return the function nck_<name>. It takes addresses as integers instead of pointers.

    Casting pointers costs more than the call. Raises KernelError as `cpu` and `cuda` do.
    """
    library = cuda() if name.startswith("cuda_") else cpu()
    function = getattr(library, f"nck_{name}")
    declared = _ffi().typeof(function)
    taken = ["intptr_t" if a.kind == "pointer" else a.cname for a in declared.args]
    return _ffi().cast(f"{declared.result.cname} (*)({', '.join(taken)})", function)


def check(status: int, library: Any) -> None:
    """Raise KernelError with the library's message unless the status is NCK_OK.

    For NCK_LOGITS the error is a LogitsError.
    """
    if status:
        kind = LogitsError if status == STATUS_LOGITS else KernelError
        raise kind(_ffi().string(library.nck_last_error()).decode())


def address(structure: Any) -> int:
    """Return the address of a structure from `ffi.new`; the caller must keep the structure."""
    return int(_ffi().cast("intptr_t", structure))


def take_buffer(size: int) -> Any:
    """Return a writable buffer of `size` bytes from the kernels' store, to which it returns.

    Useful from about a megabyte on, where fresh pages cost more than filling them.
    """
    library, ffi = cpu(), _ffi()
    pointer = ffi.new("void **")
    check(library.nck_take_buffer(size, pointer), library)
    owned = ffi.gc(pointer[0], library.nck_give_buffer)
    return ffi.buffer(owned, size)
