"""How many threads the kernels take."""

import threading

import pytest

from nanochat.system.threads import spare_threads
from nanochat.system.torch_import import THREAD


@pytest.mark.parametrize(("count", "left"), [(1, 1), (2, 1), (16, 15)])
def test_the_import_of_torch_keeps_one_thread_of_several(count, left):
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name=THREAD)
    assert spare_threads(count) == count
    thread.start()
    try:
        assert spare_threads(count) == left
    finally:
        end.set()
        thread.join()
    assert spare_threads(count) == count
