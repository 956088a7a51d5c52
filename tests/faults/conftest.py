"""The server of commands, and the record of what the long forms have tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from faults.commands import Commands


@pytest.fixture(scope="package")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    started = Commands(tmp_path_factory.mktemp("build"))
    yield started
    started.close()


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Call with counts; a long form that passes adds them to bench/results/faults/reliability.json."""
    counts: dict[str, int] = {}

    def add(**more: int) -> None:
        for name, number in more.items():
            counts[name] = counts.get(name, 0) + number

    yield add
    report = request.node.stash.get(REPORT, None)
    if report is not None and report.passed and request.node.get_closest_marker("long"):
        from faults.record import write_trials

        write_trials(request.node.nodeid.partition("::")[2], counts)


REPORT = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[REPORT] = report
    return report
