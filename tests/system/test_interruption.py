"""A signal at any moment outside of training ends the command with one line, imports included."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Sends a signal to the process at the start of the import of a module.
CODE = """
import os, signal, sys
number, module = int(sys.argv.pop(1)), sys.argv.pop(1)
class Sender:
    def find_spec(name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(Sender)
            os.kill(os.getpid(), number)
from nanochat.__main__ import main
sys.meta_path.insert(0, Sender)
main()
"""

LINES = {
    signal.SIGINT: b"interrupted\n",
    signal.SIGTERM: b"interrupted by SIGTERM\n",
    signal.SIGHUP: b"interrupted by SIGHUP\n",
}


def with_defaults() -> None:
    """A shell or nohup, in which these tests may run, may have signals ignored."""
    for number in LINES:
        signal.signal(number, signal.SIG_DFL)


def ended(number: signal.Signals, module: str, before=signal.SIG_DFL, *words: str):
    return subprocess.run(
        [sys.executable, "-c", CODE, str(int(number)), module, "info", *words],
        capture_output=True, timeout=60,
        # A shell or nohup, in which these tests may run, may have it ignored.
        preexec_fn=lambda: signal.signal(number, before),
    )  # fmt: skip


@pytest.mark.parametrize(
    "module", ["nanochat.cli", "nanochat.config.flags", "nanochat.commands.info"]
)
@pytest.mark.parametrize("number", LINES)
def test_a_signal_during_an_import_is_one_line(number, module):
    done = ended(number, module)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", LINES[number])


def test_a_signal_that_is_ignored_stays_ignored():
    done = ended(signal.SIGHUP, "nanochat.cli", signal.SIG_IGN)
    assert (done.returncode, done.stderr) == (0, b"")


AN_IMPORT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from nanochat.system.interruption import interrupt_at_signals
interrupt_at_signals()
try:
    import interrupted
    time.sleep(30)
except KeyboardInterrupt as interruption:
    print(int(interruption.args[0]), interrupted.is_whole)
"""


@pytest.mark.parametrize("body", ["kill(); kill()", "kill()"])
def test_an_import_that_never_ends_is_interrupted(tmp_path, body):
    """By the second signal at once, and by one signal after some seconds."""
    (tmp_path / "interrupted.py").write_text(
        f"import os, time\ndef kill(): os.kill(os.getpid(), {int(signal.SIGTERM)}); time.sleep(0.05)\n"
        f"{body}\ntime.sleep(90)\n"
    )
    code = AN_IMPORT.replace(", interrupted.is_whole", "")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60,
        preexec_fn=with_defaults,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{int(signal.SIGTERM)}\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_an_import_interrupts_after_it(tmp_path, number):
    """Modules in C may replace a KeyboardInterrupt by an ImportError, as NumPy's does."""
    (tmp_path / "interrupted.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.05)\nis_whole = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", AN_IMPORT, str(tmp_path)], capture_output=True, text=True,
        timeout=60, preexec_fn=with_defaults,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{int(number)} True\n", "")
