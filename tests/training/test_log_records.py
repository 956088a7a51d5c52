"""Reading metrics.jsonl: the records that a run writes, and none of the lines that it does not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from nanochat.training.log_records import figure, log_records
from nanochat.training.metrics import JsonlWriter


def test_what_a_run_writes_is_read(tmp_path: Path) -> None:
    log = JsonlWriter(tmp_path / "log")
    evaluation = {"kind": "eval", "step": 0, "val_loss": None, "val_bpb": math.inf, "tokens": 3}
    log.write(evaluation)
    log.write_steps(1, [2.5, 1.0], [0.25, 0.5], [(0.1, 0.2, 0.3), (0.05, 0.1, 0.15)], [10, 20], 1.5)
    log.write({"kind": "step", "step": 3, "loss": math.nan, "grad_norm": -math.inf, "lr": 0.0})
    log.close()
    first, second, third, last = log_records(tmp_path / "log")
    assert first == evaluation
    assert second == {
        "kind": "step", "step": 1, "loss": 2.5, "grad_norm": 0.25, "lr": 0.1, "matrix_lr": 0.2,
        "head_lr": 0.3, "tokens": 10, "elapsed_s": 1.5,
    }  # fmt: skip
    assert third == {
        "kind": "step", "step": 2, "loss": 1.0, "grad_norm": 0.5, "lr": 0.05, "matrix_lr": 0.1,
        "head_lr": 0.15, "tokens": 20, "elapsed_s": 1.5,
    }  # fmt: skip
    assert math.isnan(last["loss"]) and last["grad_norm"] == -math.inf
    assert [record["step"] for record in log_records(tmp_path / "log", "step")] == [1, 2, 3]
    assert list(log_records(tmp_path / "log", "eval")) == [evaluation]


SOUND = {"kind": "step", "step": 1, "loss": 2.0}


@pytest.mark.parametrize("line", [
    "", "null", "[]", "3", "[" * 60_000, "{", "\xff", '{"kind":"step","step":1,"loss":NaN',
    *(json.dumps({**SOUND, **changes}) for changes in (
        {"kind": "other"}, {"kind": []}, {"step": True}, {"step": -1}, {"step": 1.0}, {"step": "1"},
        {"step": 1 << 53}, {"loss": "abc"}, {"loss": []}, {"loss": True}, {"loss": 10**400},
        {"lr": {}}, {"grad_norm": "1"},
    )),
    '{"kind":"step","step":1}', '{"kind":"eval","step":1}',
])  # fmt: skip
def test_a_line_that_no_run_writes_is_left_out(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(f"{line}\n{json.dumps(SOUND)}\n", encoding="latin-1")
    assert list(log_records(tmp_path / "log")) == [SOUND]


@pytest.mark.parametrize(("value", "number"), [
    (1, 1.0), (2.5, 2.5), (True, None), ("nan", None), ("1", None), (None, None), ([], None),
    (math.inf, None), (10**400, None),
])  # fmt: skip
def test_a_figure_is_a_finite_number(value: object, number: float | None) -> None:
    assert figure(value) == number
