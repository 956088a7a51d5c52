"""The import of the tensor engine on another thread."""

from __future__ import annotations

import sys
import threading

import pytest

from nanochat import engines
from nanochat.config.options import TrainConfig
from nanochat.errors import MissingDependency


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], threading.Event]:
    """Replace the import by a wait for the event; return the names that were imported."""
    names: list[str] = []
    event = threading.Event()

    def wait(name: str) -> None:
        names.append(name)
        assert event.wait(20)
        names.append("done")
        raise ImportError(name)

    monkeypatch.setattr(engines.importlib, "import_module", wait)
    monkeypatch.delitem(sys.modules, "nanochat.tensor.engine", raising=False)
    return names, event


def import_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "import torch"]


def test_the_caller_goes_on_while_torch_is_imported_and_an_error_ends_no_thread_loudly(
    imported: tuple[list[str], threading.Event], capfd: pytest.CaptureFixture[str]
) -> None:
    names, event = imported
    engines.begin_import(TrainConfig(mode="tensor"))
    (thread,) = import_threads()
    assert "done" not in names
    event.set()
    thread.join(20)
    assert names == ["nanochat.tensor.engine", "done"]
    assert capfd.readouterr().err == ""


def test_mode_scalar_imports_no_torch(imported: tuple[list[str], threading.Event]) -> None:
    engines.begin_import(TrainConfig(mode="scalar"))
    assert not import_threads()


def test_missing_torch_is_refused_at_once(
    imported: tuple[list[str], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="mode tensor needs torch"):
        engines.begin_import(TrainConfig(mode="tensor"))
    assert not import_threads()
