"""stdout and stderr that are full, closed or gone: progress is dropped, results are an error."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.errors import OutputError
from nanochat.system import streams
from nanochat.system.streams import PROGRESS, write_progress, write_result


class Broken(io.StringIO):
    """A stream that cannot be written, for the reason that it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def isatty(self):
        return True


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
GONE = OSError(errno.EIO, os.strerror(errno.EIO))  # a terminal that was closed
CLOSED = ValueError("I/O operation on closed file")
NO_READER = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.fixture(autouse=True)
def _no_exit_handlers(monkeypatch):
    monkeypatch.setattr(streams.atexit, "register", lambda function: None)


@pytest.mark.parametrize("error", [FULL, GONE, CLOSED, NO_READER])
def test_progress_that_cannot_be_written_is_dropped(monkeypatch, error):
    monkeypatch.setattr(sys, "stderr", Broken(error))
    write_progress("step 1")
    assert PROGRESS.write("step 2") == 6
    PROGRESS.flush()
    assert PROGRESS.isatty()


def test_progress_without_a_stderr_is_dropped_and_never_on_stdout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    write_progress("step 1")
    assert not PROGRESS.isatty()
    assert capsys.readouterr().out == ""


def test_what_can_be_written_is_written_at_once(capsys):
    write_result("a")
    write_progress("b")
    assert capsys.readouterr() == ("a", "b\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(FULL, "No space left on device"), (GONE, "Input/output error"), (CLOSED, str(CLOSED))],
)
def test_results_that_cannot_be_written_are_an_error(monkeypatch, error, reason):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    with pytest.raises(OutputError) as caught:
        write_result("loss=1")
    assert str(caught.value) == (
        f"cannot write the results to stdout: {reason}; redirect it to another file"
    )


def test_results_without_a_stdout_are_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="stdout: it is closed; redirect"):
        write_result("loss=1")


def test_a_reader_that_has_left_is_told_apart(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken(NO_READER))
    with pytest.raises(BrokenPipeError):
        write_result("loss=1")


# -------------------------------------------------------------------------------- whole processes


@pytest.fixture
def command(folder, tiny, flags):
    """A training run in a shell, with redirections; returns its exit code, stdout and stderr."""

    def run(redirections: str, **options):
        words = ["-m", "nanochat", "train", *flags(**tiny(out="run", **options))]
        shell = ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, *words]
        return subprocess.run(shell, capture_output=True, text=True, timeout=120)

    return run


def is_whole(run: Path) -> bool:
    return (run / "result.json").exists() and (run / "checkpoints/step-000006").is_dir()


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")


@pytest.mark.parametrize(
    "redirection", [pytest.param("2>/dev/full", marks=needs_full), "2>&-", "2>&- <&-"]
)
def test_a_run_whose_progress_cannot_be_written_ends_well(command, redirection):
    done = command(redirection)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "run: run"
    assert is_whole(Path("run"))


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        pytest.param(">/dev/full", "No space left on device", marks=needs_full),
        (">&-", "it is closed"),
    ],
)
def test_a_run_whose_results_cannot_be_written_is_saved_and_ends_in_one_error(
    command, redirection, reason
):
    done = command(f"--quiet {redirection}")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: cannot write the results to stdout: {reason}; redirect it to another file\n"
    )
    assert is_whole(Path("run"))


@needs_full
def test_where_nothing_can_be_written_the_exit_code_still_tells(command):
    done = command(">/dev/full 2>/dev/full")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert is_whole(Path("run"))


def test_a_reader_of_progress_that_leaves_does_not_end_the_run(folder, tiny, flags):
    options = tiny(out="run", steps=300, eval_every=1, checkpoint_every=300)
    words = ["-m", "nanochat", "train", *flags(**options)]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stderr.readline()
        process.stderr.close()
        assert process.stdout.read().splitlines()[-1] == b"run: run"
        assert process.wait(120) == 0
    assert (Path("run") / "result.json").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS reports a closed terminal otherwise")
def test_a_terminal_that_goes_away_does_not_end_the_run(folder, tiny, flags):
    """The bar of rich draws from a thread; neither it nor an evaluation's row may fail."""
    leader, child = os.openpty()
    code = (
        "import sys\n"
        "from nanochat.cli import main\n"
        "from nanochat.output.progress import Screen\n"
        "Screen.AFTER_S = 0.0\n"
        "def evaluated(self, metrics, shown=Screen.evaluated):\n"
        "    if metrics.step == 1000: sys.stdin.read()\n"  # until the terminal is gone
        "    shown(self, metrics)\n"
        "Screen.evaluated = evaluated\n"
        "sys.exit(main())\n"
    )
    words = ["-c", code, "train", *flags(**tiny(out="run", steps=3000, eval_every=1000))]
    with subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=child,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(child)
        seen = b""
        while b"\x1b[?25l" not in seen:  # the bar is there: it hides the cursor
            seen += os.read(leader, 4096)
        os.close(leader)
        process.stdin.close()
        assert process.stdout.read().splitlines()[-1] == b"run: run"
        assert process.wait(120) == 0
    assert (Path("run") / "result.json").exists()


def test_a_closed_stderr_gives_its_number_to_no_file_of_the_run(folder, tiny, flags):
    """A native library that prints to descriptor 2 must not write into a checkpoint."""
    code = (
        "import os, sys\n"
        "from nanochat.cli import main\n"
        "os.close(1), os.close(2)\n"
        "main(['info'])\n"
        "assert os.path.realpath('/proc/self/fd/2') == os.devnull\n"
        "with open('file', 'w') as file: assert file.fileno() > 2\n"
        "open('passed', 'w').close()\n"
    )
    if not Path("/proc/self/fd").exists():
        code = code.replace("os.path.realpath('/proc/self/fd/2')", "os.devnull")
    subprocess.run([sys.executable, "-c", code], timeout=120)
    assert Path("passed").exists()
