"""Signals as a question: the first asks, the second interrupts, and all is as before afterwards."""

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
