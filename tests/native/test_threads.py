"""Concurrent callers, messages per thread, OpenMP's and the library's threads, and fork()."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest
from native.calls import ARGUMENT, OK, cross_entropy, last_error
from native.oracle import Loss, Problem
from native.storage import Matrix

Python = Callable[..., "subprocess.CompletedProcess[str]"]
openmp = pytest.mark.skipif(
    sys.platform != "linux" or find_library("gomp") is None, reason="needs libgomp"
)

PRELUDE = f"""
import ctypes, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from nanochat import native
from native.test_threads import batch, cross_entropy
question, logits = batch()
"""
LOAD_OPENMP = "openmp = ctypes.CDLL('libgomp.so.1')\n"
# Starts an OpenMP team outside the kernels, as torch does.
USE_OPENMP = """
nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda context: None)
openmp.GOMP_parallel(nothing, None, 4, 0)
"""
PRINT = "print(cross_entropy(question, logits, threads=4).bits()[0].hex(), flush=True)\n"
IN_A_CHILD = """
sys.stdout.flush()
child = os.fork()
if child == 0:
    signal.alarm(20)  # a child that waits for threads it does not have
    {statement}
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def in_a_child(statement: str) -> str:
    return IN_A_CHILD.replace("{statement}", statement.strip())


def batch() -> tuple[Problem, Matrix]:
    """Return enough rows for several chunks."""
    logits = Matrix.of(np.random.default_rng(4).normal(size=(900, 65)), "float32")
    return Problem(logits=logits.values(), targets=np.arange(900) % 65), logits


def expected() -> str:
    return cross_entropy(*batch()).losses.tobytes().hex()


def lines(python: Python, *parts: str) -> list[str]:
    result = python("-I", "-W", "ignore", "-c", "".join([PRELUDE, *parts]))
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_callers_at_once_have_the_results_of_callers_alone() -> None:
    question, logits = batch()
    alone = cross_entropy(question, logits).bits()
    answers: list[bool] = []

    def work() -> None:
        own = logits.copy()
        bits = [cross_entropy(question, own, threads=3).bits() for _ in range(30)]
        answers.extend(each == alone for each in bits)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert answers == [True] * 120


def test_a_message_belongs_to_the_thread_whose_call_failed() -> None:
    question, logits = batch()
    bad = Problem(logits=question.logits, targets=question.targets, loss=Loss(z_loss=-1))
    assert cross_entropy(bad, logits).status == ARGUMENT
    mine, others = last_error(), []

    def work() -> None:
        others.append(last_error())
        worse = Problem(logits=question.logits, targets=question.targets, loss=Loss(softcap=-1))
        cross_entropy(worse, logits)
        others.append(last_error())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert others[0] == ""
    assert others[1].startswith("softcap")
    assert last_error() == mine
    # The message stays until the next failure.
    assert cross_entropy(question, logits).status == OK
    assert last_error() == mine


@openmp
def test_openmp_threads_and_library_threads_give_the_same_bits(python: Python) -> None:
    assert lines(python, PRINT, LOAD_OPENMP, PRINT) == [expected()] * 2


@openmp
def test_any_number_of_threads_may_be_asked_for(python: Python) -> None:
    # One chunk per row, and far more rows than a process can have threads; ignored rows are not read.
    many = """
from types import SimpleNamespace
import numpy as np
from native.oracle import Problem
rows, vocab = 150_000, 16384
everything = Problem(logits=np.broadcast_to(0.0, (rows, vocab)), targets=np.full(rows, -100))
logits = SimpleNamespace(flat=np.zeros(1, np.float32), stride=vocab, dtype="float32")
result = cross_entropy(everything, logits, gradient="none", threads=2**31 - 1)
print(result.status, result.losses.any())
"""
    assert lines(python, LOAD_OPENMP, many) == ["0", "False"]


def test_a_child_of_fork_can_call_after_its_parents_threads_did(python: Python) -> None:
    assert lines(python, PRINT, in_a_child(PRINT), PRINT) == [expected()] * 3


def test_a_child_of_fork_can_call_where_its_parent_never_did(python: Python) -> None:
    assert lines(python, "native.cpu()\n", in_a_child(PRINT), PRINT) == [expected()] * 2


@openmp
def test_a_child_of_fork_can_call_after_others_used_openmp(python: Python) -> None:
    parts = ("native.cpu()\n", LOAD_OPENMP, USE_OPENMP, in_a_child(PRINT), PRINT)
    assert lines(python, *parts) == [expected()] * 2


def test_a_child_of_fork_can_take_and_give_buffers(python: Python) -> None:
    parts = (
        "native.take_buffer(1 << 22)\nkept = native.take_buffer(1 << 22)\nkept[:3] = b'abc'\n",
        in_a_child(
            "native.take_buffer(1 << 22)[:3] = b'xyz'; print(kept[:3].decode(), flush=True)"
        ),
        "print(kept[:3].decode())",
    )
    assert lines(python, *parts) == ["abc", "abc"]
