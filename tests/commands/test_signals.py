"""Signals as a question: the first asks, the second interrupts, and handlers are put back."""

from __future__ import annotations

import signal
import threading

import pytest

from nanochat.commands.signals import stop_requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_only_noted(number):
    with stop_requested() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts(first, second):
    with pytest.raises(KeyboardInterrupt), stop_requested():  # noqa: PT012  # the second signal must come inside
        signal.raise_signal(first)
        signal.raise_signal(second)


@pytest.fixture
def _hangup_is_not_ignored():
    """nohup starts processes, such as these tests, that ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_hangup_is_not_ignored")
def test_a_terminal_that_closes_asks_to_stop_however_often_it_says_so():
    with stop_requested() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop()
        signal.raise_signal(signal.SIGHUP)
    with stop_requested() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        assert stop()


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requested() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_one_of_several_processes_a_repeated_signal_changes_nothing(monkeypatch):
    """torchrun repeats to its processes the signal that the terminal has sent them."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with stop_requested() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert stop()


def test_handlers_are_put_back_however_the_block_ends():
    def handler(*_):
        pass

    before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        with stop_requested():
            assert signal.getsignal(signal.SIGINT) is not handler
        with pytest.raises(ValueError, match="broken"), stop_requested():
            raise ValueError("broken")
        for number in before:
            assert signal.getsignal(number) is handler
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def test_outside_the_main_thread_nothing_is_ever_requested():
    answers = []

    def ask():
        with stop_requested() as stop:
            answers.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]
