"""Invalid arguments: each error message names the argument, the rule and the value."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native.calls import ARGUMENT, MEMORY, OK, TARGET, last_error, nck_loss, pointer
from native.oracle import Loss

from nanochat import native

NULL = native.ffi.NULL
ROWS, VOCAB = 3, 8


class Call:
    """The arguments of nck_cross_entropy by name, all valid until one is changed."""

    def __init__(self, options: Mapping[str, Any] | None = None, **changes: Any) -> None:
        self.logits = np.linspace(-1, 1, ROWS * VOCAB, dtype=np.float32)
        self.gradient = np.full(ROWS * VOCAB, 5, np.float32)
        self.targets = np.array([0, 7, 3])
        self.results = [np.full(ROWS, 5, np.float32) for _ in range(3)]
        self.loss = nck_loss(Loss())
        for field, value in (options or {}).items():
            setattr(self.loss[0], field, value)
        self.arguments: dict[str, Any] = {
            "logits": pointer(self.logits),
            "rows": ROWS,
            "vocab": VOCAB,
            "row_stride": VOCAB,
            "dtype": native.DTYPES["float32"],
            "targets": native.ffi.cast("int64_t *", self.targets.ctypes.data),
            "class_weights": NULL,
            "token_weights": NULL,
            "loss": self.loss,
            "upstream": NULL,
            "upstream_stride": 0,
            "gradient": pointer(self.gradient),
            "gradient_stride": VOCAB,
            "losses": pointer(self.results[0]),
            "log_sums": pointer(self.results[1]),
            "correct": pointer(self.results[2]),
            "threads": 1,
        }
        assert changes.keys() <= self.arguments.keys()
        self.arguments.update(changes)

    def run(self) -> int:
        return int(native.cpu().nck_cross_entropy(*self.arguments.values()))

    def wrote_nothing(self) -> bool:
        return all((each == 5).all() for each in (self.gradient, *self.results))


NO_MEMORY = "no memory for the working space of a kernel"
STRIDE = "stride of logits must be at least vocab 8, got 7"
BEYOND = "beyond 63 bits of address"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": NULL}, "logits must not be NULL"),
        ({"targets": NULL}, "targets must not be NULL"),
        ({"loss": NULL}, "loss must not be NULL"),
        ({"rows": -1}, "rows must be at least 0, got -1"),
        ({"vocab": 0}, "vocab must be in [1, 2^30], got 0"),
        ({"vocab": -(2**63)}, "vocab must be in [1, 2^30], got -9223372036854775808"),
        ({"row_stride": 7}, STRIDE),
        ({"gradient_stride": 7}, STRIDE.replace("logits", "gradient")),
        ({"gradient_stride": -8}, "stride of gradient must be at least vocab 8, got -8"),
        ({"dtype": 4}, "dtype must be one of NCK_FLOAT32 … NCK_FLOAT16, got 4"),
        ({"dtype": -1}, "dtype must be one of NCK_FLOAT32 … NCK_FLOAT16, got -1"),
        ({"upstream_stride": 2}, "upstream_stride must be 0 or 1, got 2"),
        ({"upstream_stride": -1}, "upstream_stride must be 0 or 1, got -1"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"threads": -(2**31)}, "threads must be at least 1, got -2147483648"),
        ({"vocab": 2**30 + 1, "rows": 1}, f"vocab must be in [1, 2^30], got {2**30 + 1}"),
        ({"row_stride": 2**61}, f"logits of 3 rows of 8 are {BEYOND}"),
        ({"gradient_stride": 2**62}, f"gradient of 3 rows of 8 are {BEYOND}"),
        ({"rows": 2**60}, f"logits of {2**60} rows of 8 are {BEYOND}"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_and_nothing_is_written(
    changes: dict[str, Any], message: str
) -> None:
    call = Call(**changes)
    assert call.run() == ARGUMENT
    assert last_error() == message
    assert call.wrote_nothing()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("label_smoothing", -0.1, "label_smoothing must be in [0, 1], got -0.1"),
        ("label_smoothing", 1.5, "label_smoothing must be in [0, 1], got 1.5"),
        ("label_smoothing", np.nan, "label_smoothing must be in [0, 1], got nan"),
        ("z_loss", -1e-9, "z_loss must be finite and at least 0, got -1e-09"),
        ("z_loss", np.inf, "z_loss must be finite and at least 0, got inf"),
        ("z_loss", np.nan, "z_loss must be finite and at least 0, got nan"),
        ("softcap", -1.0, "softcap must be 0 or in [1e-30, 1e30], got -1"),
        ("softcap", 1e-40, "softcap must be 0 or in [1e-30, 1e30], got 1e-40"),
        ("softcap", 1e31, "softcap must be 0 or in [1e-30, 1e30], got 1e+31"),
        ("softcap", np.inf, "softcap must be 0 or in [1e-30, 1e30], got inf"),
        ("softcap", np.nan, "softcap must be 0 or in [1e-30, 1e30], got nan"),
        ("reduction", 3, "reduction must be NCK_NONE, NCK_MEAN or NCK_SUM, got 3"),
        ("reduction", -1, "reduction must be NCK_NONE, NCK_MEAN or NCK_SUM, got -1"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(
    field: str, value: float, message: str
) -> None:
    call = Call(options={field: value})
    assert call.run() == ARGUMENT
    assert last_error() == message
    assert call.wrote_nothing()


@pytest.mark.parametrize(
    ("bytes_off", "stride"), [(4, VOCAB), (-4, VOCAB), (0, VOCAB + 1), (4 * VOCAB, VOCAB)]
)
def test_a_gradient_that_overlaps_the_logits_elsewhere_is_refused(
    bytes_off: int, stride: int
) -> None:
    call = Call()
    room = np.full(100, 5, np.float32)
    first = native.ffi.cast("char *", room.ctypes.data) + 40
    call.arguments.update(logits=first, gradient=first + bytes_off, gradient_stride=stride)
    assert call.run() == ARGUMENT
    assert last_error() == (
        "gradient must be logits, with the same stride, or lie apart; they overlap,"
        f" {bytes_off} bytes from first to first"
    )
    assert (room == 5).all()


def test_a_gradient_right_behind_the_logits_is_apart() -> None:
    call = Call()
    room = np.zeros(2 * ROWS * VOCAB, np.float32)
    first = native.ffi.cast("char *", room.ctypes.data)
    call.arguments.update(logits=first, gradient=first + 4 * ROWS * VOCAB)
    assert call.run() == OK
    assert not room[: ROWS * VOCAB].any()
    assert room[ROWS * VOCAB :].all()


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("target", [8, -1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_target_that_is_no_token_is_named_with_its_row_and_nothing_is_written(
    row: int, target: int, threads: int
) -> None:
    call = Call(threads=threads)
    call.targets[row] = target
    assert call.run() == TARGET
    message = f"target of row {row} must be in [0, 8) or ignore_index -100, got {target}"
    assert last_error() == message
    assert call.wrote_nothing()


def test_the_first_of_several_wrong_targets_is_named() -> None:
    call = Call()
    call.targets[1:] = 9
    assert call.run() == TARGET
    assert "row 1 " in last_error()


def test_ignore_index_may_be_a_token_or_any_other_number() -> None:
    for ignore in (7, 10**12, -(2**63)):
        call = Call(options={"ignore_index": ignore})
        call.targets[1] = ignore
        assert call.run() == OK
        assert call.results[0][1] == 0
        assert call.results[0][0] > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 0, "logits": NULL, "targets": NULL, "gradient": NULL},
        {"rows": 1, "row_stride": 0},
        {"rows": 1, "gradient_stride": -5},
        {"losses": NULL, "log_sums": NULL, "correct": NULL},
        {"threads": 2**31 - 1},
    ],
)
def test_arguments_that_no_row_needs_may_be_null(changes: dict[str, Any]) -> None:
    assert Call(**changes).run() == OK


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bounds a child's memory")
def test_a_working_space_that_cannot_be_had_is_a_status() -> None:
    import resource  # missing on Windows

    # The row is ignored, so it is not read.
    call = Call(rows=1, vocab=2**30, gradient=NULL)
    call.targets[0] = -100
    child = os.fork()
    if not child:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + 2**30
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        wanted = call.run() == MEMORY and last_error() == NO_MEMORY
        os._exit(0 if wanted else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": -2}, "rows must be at least 0, got -2"),
        ({"vocab": 0}, "vocab must be in [1, 2^30], got 0"),
        ({"dtype": 9}, "dtype must be one of NCK_FLOAT32 … NCK_FLOAT16, got 9"),
        ({"targets": NULL}, "targets must not be NULL"),
        ({"weight": NULL}, "weight must not be NULL"),
    ],
)
def test_target_weight_names_a_wrong_argument(changes: dict[str, Any], message: str) -> None:
    targets = np.array([0, 1, 2])
    weight, counted = native.ffi.new("double *", 5), native.ffi.new("int64_t *", 5)
    arguments = {
        "targets": native.ffi.cast("int64_t *", targets.ctypes.data),
        "rows": 3, "vocab": 4, "dtype": 0, "class_weights": NULL, "token_weights": NULL,
        "ignore_index": -1, "weight": weight, "counted": counted, **changes,
    }  # fmt: skip
    assert native.cpu().nck_target_weight(*arguments.values()) == ARGUMENT
    assert last_error() == message
    assert (weight[0], counted[0]) == (5, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix": NULL}, "matrix must not be NULL"),
        ({"result": NULL}, "result must not be NULL"),
        ({"upstream": NULL}, "upstream must not be NULL"),
        ({"row_stride": 3}, "stride of matrix must be at least vocab 4, got 3"),
        ({"result_stride": 3}, "stride of result must be at least vocab 4, got 3"),
        ({"upstream_stride": 4}, "upstream_stride must be 0 or 1, got 4"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_scale_rows_names_a_wrong_argument(changes: dict[str, Any], message: str) -> None:
    matrix, result = np.ones(12, np.float32), np.full(12, 5, np.float32)
    upstream = np.ones(3, np.float32)
    arguments = {
        "matrix": pointer(matrix), "rows": 3, "vocab": 4, "row_stride": 4, "dtype": 0,
        "upstream": pointer(upstream), "upstream_stride": 1, "result": pointer(result),
        "result_stride": 4, "threads": 1, **changes,
    }  # fmt: skip
    assert native.cpu().nck_scale_rows(*arguments.values()) == ARGUMENT
    assert last_error() == message
    assert (result == 5).all()


def test_scale_rows_refuses_a_result_that_overlaps_the_matrix_elsewhere() -> None:
    room, upstream = np.ones(20, np.float32), np.ones(3, np.float32)
    first = native.ffi.cast("char *", room.ctypes.data)
    status = native.cpu().nck_scale_rows(
        first, 3, 4, 4, 0, pointer(upstream), 1, first + 8, 4, 1
    )  # fmt: skip
    assert status == ARGUMENT
    assert last_error().startswith("result must be matrix, with the same stride, or lie apart")
