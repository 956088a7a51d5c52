"""The table of docs/reliability.md agrees with the record of the experiments."""

from __future__ import annotations

from pathlib import Path

from bench.faults import reliability

FAULTS = Path(__file__).parents[1] / "faults"


def test_the_page_agrees_with_the_record() -> None:
    page = reliability.PAGE.read_text(encoding="utf-8")
    assert reliability.written(page) == page


def test_the_counts_of_a_parametrized_test_are_added_up() -> None:
    name = "test_a_killed_run_ends_with_the_same_bits"
    record = {
        f"{name}[program]": {"killed_runs": 600}, f"{name}[tensor]": {"killed_runs": 1_400},
        "test_of_another_kind": {"trials": 3},
    }  # fmt: skip
    assert reliability.rows(record).splitlines()[2:] == [
        "| Kill −9 one to three times at random moments, start-up and resumes included"
        " | 2,000 killed runs | `test_kill.py` |"
    ]


def test_each_experiment_of_the_table_is_a_long_test_of_its_file() -> None:
    for name, (_, file) in reliability.EXPERIMENTS.items():
        text = (FAULTS / file).read_text(encoding="utf-8")
        assert f"def {name}(" in text and "@pytest.mark.long" in text, name
