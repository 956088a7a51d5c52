"""nck_adamw against the formula in float64, within the bounds of its arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import ARGUMENT, OK, last_error, pointer
from native.storage import DTYPES, ELEMENT, Placement, accumulation_dtype, to_float64, to_stored
from native.test_guard_pages import Side, next_to_guard_page
from numpy.typing import NDArray

from nanochat import native

BETAS, EPS, DECAY = (0.9, 0.95), 1e-8, 0.1
Numbers = NDArray[np.float64]


@dataclass
class Problem:
    """The arguments of a call; arrays of the accumulation dtype of `dtype`."""

    dtype: str
    values: NDArray[Any]
    gradients: NDArray[Any]
    m: NDArray[Any]
    v: NDArray[Any]
    stops: list[int]
    rates: list[float]
    computed: NDArray[Any] | None
    first_computed: int
    clip: float = 0.0
    loss: float = 1.0
    count: float = 4.0
    norm: NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    stopped: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))

    def step(self, threads: int = 1, **options: float) -> int:
        number = accumulation_dtype(self.dtype)
        self.norm = self.norm.astype(number)
        loss, count = np.full(1, self.loss, number), np.full(1, self.count, np.float32)
        given = {
            "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "weight_decay": DECAY,
            "grad_clip": self.clip, **options,
        }  # fmt: skip
        status = native.cpu().nck_adamw(
            pointer(self.values), pointer(self.gradients), pointer(self.m), pointer(self.v),
            len(self.values), native.DTYPES[self.dtype],
            native.ffi.new("nck_adamw_options *", given), native.ffi.new("int64_t[]", self.stops),
            native.ffi.new("double[]", self.rates), len(self.stops), pointer(loss),
            native.ffi.cast("float *", count.ctypes.data),
            native.ffi.cast("float *", self.stopped.ctypes.data), pointer(self.computed),
            self.first_computed, pointer(self.norm), threads,
        )  # fmt: skip
        self.count = float(count[0])
        return int(status)

    def bits(self) -> tuple[bytes, ...]:
        copy = b"" if self.computed is None else self.computed.tobytes()
        arrays = self.values, self.gradients, self.m, self.v, self.norm
        return *(each.tobytes() for each in arrays), copy


def problem(
    size: int, dtype: str, seed: int = 0, *, rest: int = 0, copy: bool = True,
    place: Placement = lambda array: array, **options: Any,
) -> Problem:  # fmt: skip
    """Return a problem whose last `rest` elements belong to no piece."""
    random, number = np.random.default_rng(seed), accumulation_dtype(dtype)
    updated = size - rest
    middle = int(random.integers(0, updated + 1))

    def numbers(count: int, least: float = -1.0) -> NDArray[Any]:
        return place(random.uniform(least, 1.0, count).astype(number))

    return Problem(
        dtype, numbers(size), numbers(size), numbers(updated), numbers(updated, 0.0),
        [middle, updated], [0.01, 0.003],
        place(np.zeros(size, ELEMENT[dtype])) if copy else None,
        int(random.integers(0, size + 1)), **options,
    )  # fmt: skip


def by_formula(old: Problem) -> tuple[float, Numbers, Numbers, Numbers, Numbers]:
    """Return norm, clipped gradients, values and both moments after the step."""
    values, gradients = old.values.astype(float), old.gradients.astype(float)
    norm = float(np.sqrt((gradients**2).sum()))
    if old.clip:
        gradients = gradients * min(1.0, old.clip / (norm + 1e-6))
    last = old.stops[-1]
    lr = np.repeat(old.rates, np.diff([0, *old.stops]))
    g, t = gradients[:last], old.count + 1
    m = BETAS[0] * old.m.astype(float) + (1 - BETAS[0]) * g
    v = BETAS[1] * old.v.astype(float) + (1 - BETAS[1]) * g**2
    step = m / (1 - BETAS[0] ** t) / (np.sqrt(v / (1 - BETAS[1] ** t)) + EPS)
    values[:last] = values[:last] * (1 - lr * DECAY) - lr * step
    return norm, gradients, values, m, v


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    size=st.sampled_from([1, 2, 7, 8, 9, 31, 63, 64, 65, 500, 16384, 16385, 60_000]),
    dtype=st.sampled_from(DTYPES), clip=st.sampled_from([0.0, 0.5, 1e9]), copy=st.booleans(),
    with_rest=st.booleans(), threads=st.sampled_from([1, 3]), seed=st.integers(0, 999),
)  # fmt: skip
def test_a_step_is_that_of_the_formula(
    size: int, dtype: str, clip: float, copy: bool, with_rest: bool, threads: int, seed: int
) -> None:
    given_ = problem(size, dtype, seed, rest=size // 3 if with_rest else 0, copy=copy, clip=clip)
    norm, gradients, values, m, v = by_formula(given_)
    last = given_.stops[-1]
    assert given_.step(threads) == OK
    close = {"rtol": 1e-12, "atol": 1e-13} if dtype == "float64" else {"rtol": 2e-6, "atol": 1e-7}
    np.testing.assert_allclose(given_.norm[0], norm, rtol=close["rtol"])
    np.testing.assert_allclose(given_.values, values, **close)
    np.testing.assert_allclose(given_.m, m, **close)
    np.testing.assert_allclose(given_.v, v, **close)
    assert (given_.gradients[:last] == 0).all()
    np.testing.assert_allclose(given_.gradients[last:], gradients[last:], **close)
    assert given_.count == 5.0
    if given_.computed is not None:
        first = min(given_.first_computed, last)
        wanted = to_stored(given_.values[first:last], dtype)
        assert (given_.computed[first:last] == wanted).all()
        outside = np.concatenate([given_.computed[:first], given_.computed[last:]])
        assert (to_float64(outside, dtype) == 0).all()


def test_results_are_bit_identical_for_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 5):
        given_ = problem(200_001, "bfloat16", clip=0.5)
        given_.step(threads)
        results.append(given_.bits())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("bad", ["loss", "gradient", "stopped before"])
def test_a_step_that_is_not_finite_only_zeroes_the_gradients(dtype: str, bad: str) -> None:
    given_ = problem(100, dtype)
    if bad == "loss":
        given_.loss = np.nan
    elif bad == "gradient":
        given_.gradients[17] = np.inf
    else:
        given_.stopped[0] = 1
    before = given_.values.tobytes(), given_.m.tobytes(), given_.v.tobytes()
    assert given_.step() == OK
    assert (given_.values.tobytes(), given_.m.tobytes(), given_.v.tobytes()) == before
    assert not given_.gradients.any()
    assert given_.count == 4.0
    assert given_.stopped[0] == 1
    assert given_.computed is not None
    assert not given_.computed.any()


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_stays_within_its_arrays(side: Side, dtype: str) -> None:
    for size in (*range(1, 40), 127, 130):
        for rest in (0, size // 2):
            given_ = problem(size, dtype, size, rest=rest, place=next_to_guard_page(side))
            assert given_.step() == OK


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta1": 1.0}, "betas must be in [0, 1), got 1"),
        ({"beta2": -0.5}, "betas must be in [0, 1), got -0.5"),
        ({"eps": -1.0}, "eps must be at least 0, got -1"),
        ({"grad_clip": float("nan")}, "grad_clip must be at least 0, got nan"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(
    options: dict[str, float], message: str
) -> None:
    given_ = problem(10, "float32")
    before = given_.values.tobytes(), given_.gradients.tobytes()
    assert given_.step(**options) == ARGUMENT
    assert last_error() == message
    assert (given_.values.tobytes(), given_.gradients.tobytes()) == before


def test_pieces_that_overlap_or_leave_the_buffer_are_refused() -> None:
    for stops, message in (
        ([6, 5], "stops must be in [6, 10], got 5"), ([5, 11], "stops must be in [5, 10], got 11"),
    ):  # fmt: skip
        given_ = problem(10, "float32")
        given_.stops = stops
        assert given_.step() == ARGUMENT
        assert last_error() == message


@pytest.mark.parametrize("first", [-(2**63), -1, 11, 2**63 - 1])
def test_a_copy_that_begins_outside_the_buffer_is_refused(first: int) -> None:
    given_ = problem(10, "bfloat16")
    given_.first_computed = first
    given_.norm = np.zeros(1, np.float32)
    before = given_.bits()
    assert given_.step() == ARGUMENT
    assert last_error() == f"first_computed must be in [0, 10], got {first}"
    assert given_.bits() == before
