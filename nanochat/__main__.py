"""Run `python -m nanochat`: the same command as `nanochat`."""

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line and end the process with its exit code.

    Returns the exit code only under a profiler or debugger.
    """
    try:
        from nanochat.system.interruption import interrupt_at_signals

        interrupt_at_signals()
        from nanochat.cli import main as run

        code = run()
    except KeyboardInterrupt as interruption:  # while Python still imports, or a second one
        from nanochat.system.interruption import end_interrupted

        code = end_interrupted(interruption)
    if sys.getprofile() is None and sys.gettrace() is None:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End the process without the finalization of Python, after its exit handlers.

    Finalization frees what the system frees anyway, and a refused command would wait until the
    import of torch ends.
    """
    import atexit
    import os
    import signal
    from contextlib import suppress

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the command has ended
        signal.signal(number, signal.SIG_IGN)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):  # written text is flushed; this is what is left
                stream.flush()
    os._exit(code)


if __name__ == "__main__":
    raise SystemExit(main())
