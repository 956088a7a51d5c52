"""One writer per folder: who is refused, by which words, and whose lock is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanochat.errors import OutputError
from nanochat.runs import lock as module
from nanochat.runs.lock import LOCK, locked

HOST = os.uname().nodename
HOLD = """
import sys, time
from pathlib import Path
from nanochat.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds the lock of tmp_path until its stdin is closed."""
    started = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def without_flock(monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", unsupported)


def names(**changes) -> str:
    return json.dumps({"pid": os.getpid(), "host": HOST, "started": None, **changes})


def refusal(folder: Path) -> str:
    with pytest.raises(OutputError) as caught, locked(folder):
        pass
    return str(caught.value)


def test_the_file_names_this_process_while_it_is_locked_and_is_removed_afterwards(tmp_path):
    with locked(tmp_path):
        owner = json.loads((tmp_path / LOCK).read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), HOST)
    assert not list(tmp_path.iterdir())


def test_the_lock_is_released_when_the_block_raises(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_second_process_is_refused_by_pid_and_host_until_the_first_ends(tmp_path, hold):
    first = hold()
    assert first.stdout.readline() == "locked\n"
    assert refusal(tmp_path) == (
        f"process {first.pid} on host {HOST} writes to {tmp_path};"
        " wait for it or choose another out"
    )
    first.communicate("")
    with locked(tmp_path):
        pass


def test_a_second_thread_is_refused_like_a_second_process(tmp_path):
    messages = []
    with locked(tmp_path):
        thread = threading.Thread(target=lambda: messages.append(refusal(tmp_path)))
        thread.start()
        thread.join()
    assert messages[0].startswith(f"process {os.getpid()} on host {HOST} writes to")


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, hold):
    first = hold()
    first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == first.pid
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_of_many_processes_that_start_at_once_exactly_one_gets_the_lock(tmp_path, hold):
    (tmp_path / LOCK).write_text(names(pid=4194304))  # above Linux's largest: a dead process
    processes = [hold() for _ in range(6)]
    answers = [process.stdout.readline() for process in processes]
    assert sorted(answers) == [""] * 5 + ["locked\n"]
    winner = processes[answers.index("locked\n")]
    for process, answer in zip(processes, answers, strict=True):
        if not answer:
            assert f"process {winner.pid} on host {HOST} writes to" in process.communicate()[1]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x", "host": 1}', '{"pid": 0}'])
def test_a_file_that_names_no_process_is_taken_over(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_process_on_another_host_is_refused_with_the_file_to_delete(tmp_path):
    (tmp_path / LOCK).write_text(names(pid=12, host="elsewhere"))
    assert refusal(tmp_path) == (
        f"process 12 on host elsewhere writes to {tmp_path}; if it has ended, delete"
        f" {tmp_path / LOCK}; otherwise choose another out"
    )
    (tmp_path / LOCK).unlink()
    with locked(tmp_path):
        pass


def test_without_flock_a_running_process_is_refused(tmp_path, hold, without_flock):
    process = hold()
    process.stdout.readline()
    started = module._start_time(process.pid)
    (tmp_path / LOCK).write_text(names(pid=process.pid, started=started))
    assert refusal(tmp_path).startswith(f"process {process.pid} on host {HOST} writes to")
    process.communicate("")
    (tmp_path / LOCK).write_text(names(pid=process.pid, started=started))
    with locked(tmp_path):
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times come from /proc")
def test_without_flock_a_process_number_that_was_reused_is_taken_over(tmp_path, without_flock):
    parent = os.getppid()
    started = module._start_time(parent)
    assert started is not None
    (tmp_path / LOCK).write_text(names(pid=parent, started=started - 1))
    with locked(tmp_path):
        pass
    (tmp_path / LOCK).write_text(names(pid=parent, started=started))
    assert refusal(tmp_path).startswith(f"process {parent} on host {HOST}")


def test_a_lock_removed_by_its_owner_between_open_and_flock_is_tried_again(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def removed_first(descriptor, operation):
        flock(descriptor, operation)
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    assert refusal(tmp_path / "gone") == (
        f"cannot write {tmp_path / 'gone' / LOCK}: No such file or directory; choose a writable out"
    )


def test_a_folder_moved_while_it_is_locked_is_no_error(tmp_path):
    (tmp_path / "a").mkdir()
    with locked(tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_lock_of_a_folder_that_has_taken_the_place_of_ours_is_not_removed(tmp_path):
    ours, moved = tmp_path / "run", tmp_path / "moved"
    ours.mkdir()
    with locked(ours) as lock:
        lock.check()
        ours.rename(moved)
        ours.mkdir()
        (ours / LOCK).write_text("another's")
        with pytest.raises(OutputError, match="was moved, removed or replaced during the run"):
            lock.check()
    assert (ours / LOCK).read_text() == "another's"
