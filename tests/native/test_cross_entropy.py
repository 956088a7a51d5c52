"""nck_cross_entropy compared with the formula of abi.h, within the bounds of rounding errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from native.bounds import bounds
from native.calls import OK, Result, cross_entropy
from native.oracle import Loss, Problem, answer
from native.problems import stored_problems
from native.storage import Matrix

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)


def assert_within_bounds(problem: Problem, result: Result, dtype: str) -> None:
    """Check that every result is within its bound of the oracle, and NaN where the oracle is."""
    assert result.status == OK
    expected = answer(problem)
    allowed = bounds(problem, expected, dtype)
    pairs = [
        (result.losses, expected.losses, allowed.losses),
        (result.log_sums, expected.log_sums, allowed.log_sums),
    ]
    if result.gradient is not None:
        pairs.append((result.gradient.values(), expected.gradient, allowed.gradient))
    for got, wanted, most in pairs:
        defined = ~np.isnan(wanted)
        assert np.array_equal(np.isnan(got), ~defined)
        error = np.abs(got - wanted)
        assert (error <= most)[defined].all(), np.nanmax(error / most)
    if problem.loss.reduction == "mean":
        np.testing.assert_allclose(result.correct, expected.correct, rtol=1e-6)
    else:
        np.testing.assert_array_equal(result.correct, expected.correct)


@EXAMPLES
@given(stored_problems(), st.sampled_from(["apart", "in place", "none"]), st.integers(0, 3))
def test_results_equal_the_formula_within_its_rounding(
    problem: tuple[Problem, Matrix], gradient: str, extra: int
) -> None:
    question, logits = problem
    before = logits.flat.tobytes()
    stride = logits.vocab + extra
    result = cross_entropy(question, logits, gradient=gradient, gradient_stride=stride)
    assert_within_bounds(question, result, logits.dtype)
    assert logits.guards_are_unchanged()
    assert gradient == "in place" or logits.flat.tobytes() == before
    assert result.gradient is None or result.gradient.guards_are_unchanged()


@EXAMPLES
@given(stored_problems(), st.sampled_from([2, 3, 4]))
def test_threads_stride_and_place_change_no_bit(
    problem: tuple[Problem, Matrix], threads: int
) -> None:
    question, logits = problem
    one = cross_entropy(question, logits)
    wide = logits.vocab + 5
    assert cross_entropy(question, logits, threads=threads).bits() == one.bits()
    assert cross_entropy(question, logits, gradient_stride=wide).bits() == one.bits()
    in_place = cross_entropy(question, logits.copy(), gradient="in place", threads=threads)
    assert in_place.bits() == one.bits()
    # The losses are the same without a gradient.
    assert cross_entropy(question, logits, gradient="none").bits()[:3] == one.bits()[:3]


@EXAMPLES
@given(stored_problems(), st.data())
def test_a_row_has_the_same_bits_at_any_position(
    problem: tuple[Problem, Matrix], data: st.DataObject
) -> None:
    question, logits = problem
    assume(question.loss.reduction == "none" and logits.rows > 0)
    row = data.draw(st.integers(0, logits.rows - 1))
    whole = cross_entropy(question, logits)
    alone = Matrix.of(question.logits[row : row + 1], logits.dtype)
    one = cross_entropy(question.rows(row, row + 1), alone)
    assert whole.losses[row : row + 1].tobytes() == one.losses.tobytes()
    assert whole.log_sums[row : row + 1].tobytes() == one.log_sums.tobytes()
    assert whole.correct[row] == one.correct[0]
    assert whole.gradient and one.gradient
    assert whole.gradient.stored[row].tobytes() == one.gradient.bits()


@pytest.mark.parametrize(
    ("dtype", "stride"),
    [("float32", 4160), ("float64", 4097), ("bfloat16", 4097), ("float16", 4160)],
)
def test_a_gradient_beyond_the_caches_equals_the_formula_at_any_alignment(
    dtype: str, stride: int
) -> None:
    # Gradients of 16 MiB or more are written past the caches, in whole lines with a head and a tail.
    rows, vocab = (16 << 20) // 4097 // 2 + 1, 4097
    random = np.random.default_rng(3)
    few = random.normal(size=(7, vocab)) * 3
    logits = Matrix.of(np.resize(few, (rows, vocab)), dtype)
    targets = random.integers(0, vocab, rows)
    everything = Problem(logits=np.broadcast_to(0.0, (rows, vocab)), targets=targets)
    whole = cross_entropy(everything, logits, gradient_stride=stride, threads=2)
    assert whole.gradient is not None
    assert whole.gradient.guards_are_unchanged()
    for row in (0, 1, 2, 3, rows // 2, rows - 1):
        alone = Matrix.of(few[[row % 7]], dtype)
        question = Problem(logits=alone.values(), targets=targets[row : row + 1])
        one = cross_entropy(question, alone)
        assert_within_bounds(question, one, dtype)
        assert one.gradient is not None
        assert whole.gradient.stored[row].tobytes() == one.gradient.bits()


def test_a_loss_near_zero_keeps_its_digits() -> None:
    # log(1 + 2·exp(−18)): lse − z[t] would be 0 in float.
    logits = Matrix.of(np.array([[20.0, 2.0, 2.0]]), "float32")
    question = Problem(logits=logits.values(), targets=np.array([0]))
    assert cross_entropy(question, logits).losses[0] == pytest.approx(
        float(np.log1p(2 * np.exp(-18.0))), rel=1e-3
    )


def test_correct_takes_the_first_of_equal_logits() -> None:
    rows = np.zeros((4, 40))
    rows[0, [7, 30]] = 1
    rows[1, [7, 30]] = 1
    logits = Matrix.of(rows, "float32")
    question = Problem(logits=rows, targets=np.array([7, 30, 0, 39]))
    assert cross_entropy(question, logits).correct.tolist() == [1, 0, 1, 0]


def test_correct_compares_the_logits_before_the_softcap() -> None:
    # Both are 1.0 after the cap, but the second logit is larger.
    logits = Matrix.of(np.array([[50.0, 80.0, 0.0]]), "float32")
    for target, expected in ((0, 0.0), (1, 1.0)):
        question = Problem(
            logits=logits.values(), targets=np.array([target]), loss=Loss(softcap=1.0)
        )
        assert cross_entropy(question, logits).correct[0] == expected
