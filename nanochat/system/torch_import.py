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

__all__ = ["THREAD", "begin", "importing", "is_running", "wait"]

THREAD = "import torch"  # name of the threads that import torch or modules on it
TURN_S = 0.0005  # of a thread that holds Python's lock, where another one waits; Python's is 5 ms

_lock = threading.Lock()
_blocks, _was_enabled, _turn_s = 0, False, 0.0  # of importing(), and what it restores


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


def wait() -> None:
    """Wait until no other thread imports torch.

    Two threads that import parts of it in another order would each find the other's part
    unfinished.
    """
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join()


def _import_torch() -> None:
    try:
        _load_libraries()
        with importing():
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
def importing() -> Iterator[None]:
    """Pause the garbage collector and let threads take short turns, until the last such block ends.

    An import creates many objects and little garbage. Searching them takes a seventh of torch's
    import. It also holds Python's lock nearly all the time, and each return of another thread from
    C++ waits for the end of its turn.
    """
    global _blocks, _was_enabled, _turn_s
    with _lock:
        if not _blocks:
            _was_enabled, _turn_s = gc.isenabled(), sys.getswitchinterval()
            gc.disable()
            sys.setswitchinterval(min(TURN_S, _turn_s))
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                sys.setswitchinterval(_turn_s)
                if _was_enabled:
                    gc.enable()
