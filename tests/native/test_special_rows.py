"""NaN, infinities, ignored rows and empty batches give exactly the results of abi.h."""

from __future__ import annotations

import numpy as np
import pytest
from native.calls import OK, cross_entropy
from native.oracle import Loss, Problem, answer
from native.storage import Matrix
from native.test_cross_entropy import assert_within_bounds
from numpy.typing import NDArray

from nanochat import native

ROWS, VOCAB = 21, 77
TARGET, SPOILED = 40, 8  # of every row; the row with special values

SPOILS = [
    (np.nan, [0]), (np.nan, [TARGET]), (np.nan, [VOCAB - 1]), (np.nan, list(range(VOCAB))),
    (np.inf, [3]), (np.inf, [TARGET]), (np.inf, [VOCAB - 2, VOCAB - 1]),
    (-np.inf, list(range(VOCAB))),
]  # fmt: skip
LOSSES = {
    "plain": Loss(),
    "smooth": Loss(label_smoothing=0.1, z_loss=0.01),
    "capped": Loss(softcap=15.0),
}


def problem(dtype: str, loss: Loss) -> tuple[Problem, Matrix]:
    logits = Matrix.of(np.random.default_rng(5).normal(size=(ROWS, VOCAB)) * 4, dtype)
    return Problem(logits=logits.values(), targets=np.full(ROWS, TARGET), loss=loss), logits


def spoil(dtype: str, loss: Loss, places: list[int], value: float) -> tuple[Problem, Matrix]:
    question, _ = problem(dtype, loss)
    values = question.logits.copy()
    values[SPOILED, places] = value
    logits = Matrix.of(values, dtype)
    return Problem(logits=logits.values(), targets=question.targets, loss=loss), logits


@pytest.mark.parametrize("gradient", ["apart", "in place"])
@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize(
    ("loss", "value", "places"),
    [
        (loss, value, places)
        for loss in LOSSES
        for value, places in SPOILS
        if loss != "capped" or np.isnan(value)  # an infinite logit is ±softcap; see below
    ],
)
def test_a_spoiled_row_is_nan_as_a_whole_and_no_other(
    dtype: str, loss: str, value: float, places: list[int], gradient: str
) -> None:
    clean = cross_entropy(*problem(dtype, LOSSES[loss]))
    result = cross_entropy(*spoil(dtype, LOSSES[loss], places, value), gradient=gradient)
    assert result.status == OK
    assert result.gradient and clean.gradient
    spoiled = np.arange(ROWS) == SPOILED
    for got, whole in (
        (result.losses, clean.losses),
        (result.log_sums, clean.log_sums),
        (result.gradient.stored, clean.gradient.stored),
    ):
        assert got[~spoiled].tobytes() == whole[~spoiled].tobytes()
    assert np.isnan(result.losses[SPOILED])
    assert np.isnan(result.log_sums[SPOILED])
    assert np.isnan(result.gradient.values()[SPOILED]).all()


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize(
    ("value", "places"), [(np.inf, [3, TARGET]), (-np.inf, list(range(VOCAB)))]
)
def test_an_infinite_logit_under_a_softcap_is_the_softcap(
    dtype: str, value: float, places: list[int]
) -> None:
    question, logits = spoil(dtype, LOSSES["capped"], places, value)
    result = cross_entropy(question, logits)
    assert_within_bounds(question, result, dtype)
    assert result.gradient is not None
    assert not result.gradient.values()[SPOILED, places].any()


@pytest.mark.parametrize("gradient", ["apart", "in place"])
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_a_target_at_minus_infinity_has_an_infinite_loss_and_a_finite_gradient(
    dtype: str, gradient: str
) -> None:
    question, logits = spoil(dtype, Loss(), [TARGET, 2], -np.inf)
    expected = answer(question).gradient
    result = cross_entropy(question, logits, gradient=gradient)
    assert result.losses[SPOILED] == np.inf
    assert np.isfinite(result.log_sums).all()
    assert result.gradient is not None
    got = result.gradient.values()[SPOILED]
    assert got[TARGET] == -1
    assert got[2] == 0
    np.testing.assert_allclose(got, expected[SPOILED].astype(float), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("reduction", native.REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_ignored_rows_contribute_nothing_for_any_content(
    dtype: str, loss: str, reduction: str
) -> None:
    options = Loss(
        label_smoothing=LOSSES[loss].label_smoothing, z_loss=LOSSES[loss].z_loss,
        softcap=LOSSES[loss].softcap, reduction=reduction, ignore_index=-1,
    )  # fmt: skip
    values = np.random.default_rng(6).normal(size=(ROWS, VOCAB))
    targets = np.full(ROWS, TARGET)
    targets[::3] = -1
    values[0], values[3], values[6] = np.nan, -np.inf, np.inf
    logits = Matrix.of(values, dtype)
    result = cross_entropy(Problem(logits=logits.values(), targets=targets, loss=options), logits)
    assert result.gradient is not None
    assert not result.gradient.values()[::3].any()
    assert not result.log_sums[::3].any()
    calm = Matrix.of(np.where(targets[:, None] < 0, 0.0, values), dtype)
    question = Problem(logits=calm.values(), targets=targets, loss=options)
    assert result.bits() == cross_entropy(question, calm).bits()
    assert_within_bounds(question, result, dtype)


@pytest.mark.parametrize("gradient", ["apart", "in place"])
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_a_mean_over_no_rows_is_nan_with_zero_gradients(rows: int, gradient: str) -> None:
    question = Problem(
        logits=np.ones((rows, VOCAB)),
        targets=np.full(rows, -1),
        loss=Loss(ignore_index=-1, reduction="mean"),
    )
    result = cross_entropy(question, Matrix.of(question.logits, "float32"), gradient=gradient)
    assert result.status == OK
    assert np.isnan(result.losses[0])
    assert np.isnan(result.correct[0])
    assert result.gradient is not None
    assert not result.gradient.values().any()


def test_a_sum_over_no_rows_is_zero() -> None:
    question = Problem(
        logits=np.zeros((0, 5)), targets=np.zeros(0, np.int64), loss=Loss(reduction="sum")
    )
    result = cross_entropy(question, Matrix.of(question.logits, "float32"))
    assert (result.status, result.losses[0], result.correct[0]) == (OK, 0, 0)


@pytest.mark.parametrize("dtype", native.DTYPES)
def test_one_token_has_no_loss_and_no_gradient(dtype: str) -> None:
    logits = Matrix.of(np.array([[-3.0], [0.0], [60.0]]), dtype)
    result = cross_entropy(Problem(logits=logits.values(), targets=np.zeros(3, np.int64)), logits)
    assert result.losses.tolist() == [0, 0, 0]
    assert result.log_sums.tolist() == [-3, 0, 60]
    assert result.correct.tolist() == [1, 1, 1]
    assert result.gradient is not None
    assert not result.gradient.values().any()


@pytest.mark.parametrize("dtype", native.DTYPES)
def test_the_largest_finite_logits_do_not_overflow(dtype: str) -> None:
    largest: dict[str, float] = {
        "float32": float(np.finfo(np.float32).max),
        "float64": float(np.finfo(np.float64).max),
        "bfloat16": 2.0**127 * (2 - 2.0**-7),
        "float16": 65504.0,
    }
    values: NDArray[np.float64] = np.zeros((1, 70))
    values[0, [5, 69]] = largest[dtype]
    values[0, 20] = -largest[dtype]
    logits = Matrix.of(values, dtype)
    result = cross_entropy(Problem(logits=logits.values(), targets=np.array([69])), logits)
    assert result.losses[0] == pytest.approx(np.log(2), rel=1e-6)
    assert result.log_sums[0] == pytest.approx(largest[dtype] + np.log(2), rel=1e-7)
    assert result.gradient is not None
    assert result.gradient.values()[0, [5, 20, 69]].tolist() == [0.5, 0.0, -0.5]
