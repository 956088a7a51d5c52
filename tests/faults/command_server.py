"""Run by `commands.py`: runs commands of nanochat in forked children, with or without a fault.

With an argument, it imports nothing before: torch does not survive a fork.

Reads one JSON object per line from stdin and answers each with one. A child takes milliseconds, a
process of its own a few tenths of a second. A fault is a system call that fails, or that kills the
child (failing_calls.c, which is preloaded).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FAULTS = ctypes.CDLL(None)  # symbols of the preloaded library
PR_SET_CHILD_SUBREAPER = 36


def import_all() -> None:
    """Import what a scalar run imports, so that no child has to."""
    import nanochat.cli

    for package in (
        "commands",
        "data",
        "ngram",
        "output",
        "runs",
        "sampling",
        "scalar",
        "training",
    ):
        for module in pkgutil.walk_packages(
            importlib.import_module(f"nanochat.{package}").__path__, f"nanochat.{package}."
        ):
            if "torch" not in module.name:
                importlib.import_module(module.name)
    assert nanochat.__file__
    assert "torch" not in sys.modules  # its threads do not survive a fork


def arm(fault: dict[str, Any]) -> None:
    log = fault.get("log")
    done = FAULTS.fault_arm(
        fault["below"].encode(), f" {fault['kinds']} ".encode(), ctypes.c_long(fault["at"]),
        int(fault.get("persists", False)), fault.get("error", 0), log.encode() if log else None,
    )  # fmt: skip
    assert done == 0
    assert FAULTS.fault_act(fault.get("action", "").encode()) == 0


def run_child(request: dict[str, Any], out: int, err: int) -> None:
    """Become the command. Never returns."""
    code = 70
    try:
        os.chdir(request["cwd"])
        os.dup2(os.open(request.get("stdin", os.devnull), os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(request.get("environment", {}))
        if request.get("memory"):
            resource.setrlimit(resource.RLIMIT_AS, (request["memory"],) * 2)
        if request.get("open_files"):
            resource.setrlimit(resource.RLIMIT_NOFILE, (request["open_files"],) * 2)
        if request.get("file_size"):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
        if request.get("fault"):
            arm(request["fault"])
        if request.get("trace"):
            below, log = (text.encode() for text in request["trace"])
            assert FAULTS.fault_trace(below, log) == 0
        from nanochat.cli import main

        try:
            code = main(request["words"])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(child: int, timeout_s: float) -> tuple[int | None, int]:
    """Return the exit code (negative: the signal; None: it did not end) and its peak memory."""
    deadline = time.monotonic() + timeout_s
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, 0
        time.sleep(0.001)


def end_orphans() -> int:
    """End the processes that a child has left, which are children of this one by now."""
    ended = 0
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) != (0, 0):
                continue
        except ChildProcessError:
            return ended
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            for pid in file.read().split():
                os.kill(int(pid), signal.SIGKILL)
                ended += 1
        time.sleep(0.001)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            run_child(request, out.fileno(), err.fileno())
        if (kill_after := request.get("kill_after_s")) is not None:
            time.sleep(kill_after)
            os.kill(child, request.get("signal", signal.SIGKILL))
        code, peak = wait(child, request.get("timeout_s", 60.0))
        orphans = end_orphans()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", errors="replace"))
    return {
        "code": code, "out": texts[0], "err": texts[1], "peak_bytes": peak,
        "seconds": time.monotonic() - started, "orphans": orphans,
    }  # fmt: skip


def main() -> None:
    assert FAULTS.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    if len(sys.argv) == 1:
        import_all()
    for line in sys.stdin:
        request = json.loads(line)
        if "shell" in request:
            print(os.system(request["shell"]), flush=True)
        else:
            print(json.dumps(answer(request)), flush=True)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent)
    main()
