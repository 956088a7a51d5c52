"""Begins to import torch on another thread while the process does other work.

Leaves out when that pays: engines.py and the command line decide. Imports nothing that is slow.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["THREAD", "begin", "is_running", "without_collections"]

THREAD = "import torch"  # name of the threads that import torch or modules on it

_lock = threading.Lock()
_pauses, _was_enabled = 0, False


def begin() -> None:
    """Begin to import torch, if it is installed and nobody has begun.

    A later import waits for this one and raises its errors.
    """
    if "torch" not in sys.modules and not is_running():
        # Not a daemon: a process that ends must not stop a thread inside of torch's C++ code.
        threading.Thread(target=_import_torch, name=THREAD).start()


def is_running() -> bool:
    """Return whether torch is being imported on another thread."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def _import_torch() -> None:
    try:
        _load_libraries()
        with without_collections():
            importlib.import_module("torch")
    except BaseException:
        return  # a failed import leaves no module, so the next import tries again and raises


def _load_libraries() -> None:
    """Load torch's shared libraries, as its import would do, without Python's lock.

    Their static constructors take a sixth of the import. An import holds the lock meanwhile; a
    call through ctypes does not.
    """
    spec = importlib.util.find_spec("torch")
    if sys.platform != "linux" or spec is None or spec.origin is None:
        return
    load = getattr(ctypes.CDLL(None), "dlopen", None)
    if load is None:
        return
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    folder = Path(spec.origin).parent / "lib"
    # In torch's order, and only as long as it succeeds: the import has remedies and messages.
    for name, mode in (
        ("libtorch_global_deps.so", os.RTLD_NOW | os.RTLD_GLOBAL),
        ("libtorch_python.so", os.RTLD_NOW),
    ):
        if not load(os.fsencode(folder / name), mode):
            return


@contextmanager
def without_collections() -> Iterator[None]:
    """Pause the garbage collector, on all threads, until the last such block has ended.

    An import creates many objects and little garbage. Searching them takes a seventh of torch's
    import.
    """
    global _pauses, _was_enabled
    with _lock:
        if not _pauses:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if not _pauses and _was_enabled:
                gc.enable()
