"""The start-up benchmark: the figures of a comparison, and which records it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import machine
from bench.scalar import start
from bench.scalar.start import Run


def runs(clock: list[float], rate: float | None = None) -> list[Run]:
    return [Run(seconds, 2 * seconds, rate) for seconds in clock]


def test_a_ratio_above_one_means_that_the_installed_command_is_faster() -> None:
    found = start.comparison(
        {"installed": runs([1.0, 2.0, 9.0], 30.0), "against": runs([5.0, 4.0, 3.0], 20.0)}
    )
    assert found["installed"]["clock_median_s"] == 2.0
    assert found["against"]["clock_best_s"] == 3.0
    assert found["clock_ratio_of_medians"] == 2.0
    assert found["processor_ratio_of_medians"] == 2.0
    assert found["rounds_installed_is_faster"] == 2
    assert found["steps_per_s_ratio_of_medians"] == 1.5


def test_a_command_without_steps_has_no_rate() -> None:
    found = start.comparison({"installed": runs([1.0]), "against": runs([1.0])})
    assert not [name for name in found if "steps" in name]


def test_a_run_is_timed_in_an_empty_folder_and_its_rate_is_read() -> None:
    code = "import os; print(f'files={len(os.listdir())} steps_per_sec=12.5 seed=1')"
    run = start.run_once([sys.executable, "-c", f"{code}; assert not os.listdir()"])
    assert run.steps_per_s == 12.5
    assert run.processor_s > 0
    assert run.clock_s > 0


def test_a_run_that_fails_ends_the_benchmark_with_its_message() -> None:
    with pytest.raises(SystemExit, match="failed:\n(?s:.)*no luck"):
        start.run_once([sys.executable, "-c", "raise ValueError('no luck')"])


FIGURES = {"nanochat train": {"clock_best_s": 1.0}}
COMPARED = {"runs": 3, "versions": {}, "commands": {"train": {"clock_ratio_of_medians": 1.1}}}


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(start, "measure", lambda runs: dict(FIGURES))
    monkeypatch.setattr(start, "compare", lambda other, runs: {**COMPARED, "runs": runs})
    monkeypatch.setattr(start, "compare_with_cpp", lambda peer, runs: {"peer": peer, "runs": runs})
    return tmp_path / "scalar" / "start.json"


def run_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["start", *words])
    start.main()


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_nothing_is_recorded_unless_asked(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_main(monkeypatch)
    run_main(monkeypatch, "--against", "other")
    assert not result.exists()


def test_both_kinds_of_figures_share_a_record(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_main(monkeypatch, "--write", "--runs", "2")
    first = read(result)
    assert first["commands"] == FIGURES
    assert first["runs"] == 2
    run_main(monkeypatch, "--write", "--against", "other", "--runs", "3")
    both = read(result)
    assert {name: both[name] for name in first} == first
    assert both["against"].keys() == COMPARED.keys() | {"environment"}
    run_main(monkeypatch, "--write", "--microgpt-cpp", "peer --fast", "--runs", "5")
    assert read(result)["microgpt.cpp"]["peer"] == ["peer", "--fast"]
    run_main(monkeypatch, "--write", "--runs", "4")
    kept = read(result)
    assert [kept[name]["runs"] for name in ("against", "microgpt.cpp")] == [3, 5]
    assert kept["runs"] == 4


def test_our_process_is_divided_by_that_of_microgpt_cpp_on_the_same_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_once(command: list[str], text: Path | None = None) -> Run:
        assert (text == start.NAMES) == (command[0] == str(Path("peer").absolute()))
        return Run(1.0, 3.0, None) if text else Run(1.5, 6.0, None)

    monkeypatch.setattr(start, "nanochat_command", lambda: "nanochat")
    monkeypatch.setattr(start, "version_of", lambda command: {"nanochat": "1"})
    monkeypatch.setattr(start, "run_once", run_once)
    found = start.compare_with_cpp(["peer"], 2)
    assert found["clock_ratio_of_medians"] == 1.5
    assert found["processor_ratio_of_medians"] == 2.0
    assert found["commands"].keys() == {"nanochat", "microgpt.cpp"}


def test_a_run_finds_its_text_as_input_txt() -> None:
    start.run_once([sys.executable, "-c", "assert 'emma' in open('input.txt').read()"], start.NAMES)


def test_the_record_of_the_readme_has_the_figures_that_it_quotes() -> None:
    record = machine.read_result("scalar/start")
    for name in ("python, nothing", "import numpy", "microgpt, 0 steps", "microgpt, 1,000 steps"):
        assert record["commands"][name]["clock_best_s"] > 0
