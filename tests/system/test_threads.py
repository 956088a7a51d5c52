"""How many threads the kernels take."""

import threading

import pytest

from nanochat.errors import ConfigError
from nanochat.system.threads import spare_threads, thread_count, usable_cores
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


@pytest.mark.parametrize(("value", "count"), [("3", 3), (" 2,4", 2), ("4096", 4096), ("007", 7)])
def test_a_variable_that_openmp_takes_is_taken(monkeypatch, value, count):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert thread_count(0) == count
    assert thread_count(5) == 5


@pytest.mark.parametrize("value", ["", "0", "000", "-1", "x", "٣", "1.5"])
def test_a_variable_that_openmp_ignores_is_ignored(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert thread_count(0) == usable_cores()


@pytest.mark.parametrize("value", ["4097", "1" * 30])
def test_more_threads_than_the_option_takes_are_refused_by_the_name_of_the_variable(
    monkeypatch, value
):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(ConfigError) as caught:
        thread_count(0)
    assert str(caught.value) == (
        f"OMP_NUM_THREADS must be at most 4096, got {value[:20]}; lower it, or unset it for one"
        " thread per core"
    )
