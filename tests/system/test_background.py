"""Background work: its result, its error, and whether it is unfinished."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from nanochat.system.background import NICENESS, Background, is_active


def test_the_result_is_that_of_the_work() -> None:
    assert Background(lambda: 6 * 7, "sum").result() == 42
    assert not is_active()


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    def fail() -> None:
        raise ValueError("no")

    work = Background(fail, "fails")
    with pytest.raises(ValueError, match="^no$"):
        work.result()
    assert not is_active()


def test_unfinished_work_is_active() -> None:
    go_on = threading.Event()
    work = Background(go_on.wait, "waits")
    assert is_active()
    go_on.set()
    assert work.result()
    assert not is_active()


@pytest.mark.skipif(sys.platform != "linux", reason="only there threads have a priority")
def test_the_work_gives_way_to_the_thread_that_started_it() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    assert Background(niceness, "asks").result() == min(before + NICENESS, 19)
    assert niceness() == before
