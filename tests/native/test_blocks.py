"""The kernels of a transformer block compared with NumPy in float64, through the C ABI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import ARGUMENT, OK, UNWRITTEN, last_error, pointer
from native.storage import (
    DTYPES,
    ELEMENT,
    UNIT,
    Placement,
    accumulation_dtype,
    to_float64,
    to_stored,
)
from native.test_guard_pages import Side, next_to_guard_page
from numpy.typing import NDArray
from oracles import block as oracle

from nanochat import native
from nanochat.model.parameters import rotary_angles

EPS = 1e-5
HIDDEN_SIZES = (1, 7, 17, 64, 65, 130)
Array = NDArray[np.float64]


def unit(dtype: str) -> float:
    """Return the unit roundoff of the accumulation dtype."""
    return UNIT["float64" if dtype == "float64" else "float32"]


def assert_near(
    found: Array, expected: Array, dtype: str, *, numbers: bool, terms: int, size: float = 1.0
) -> None:
    """Allow one rounding to the stored dtype, and a few roundings of the sums.

    size: of the intermediate values, if they are larger than the expected ones.
    """
    size = np.abs(expected).max(initial=size)
    bound = 4 * (terms + 8) ** 0.5 * unit(dtype) * size
    stored = 0.0 if numbers else UNIT[dtype] * np.abs(expected)
    assert (np.abs(found - expected) <= bound + stored).all()


@dataclass
class Norm:
    """Calls of nck_rms_norm and nck_rms_norm_backward on random rows."""

    rows: int
    hidden_size: int
    dtype: str
    place: Placement = lambda array: array
    seed: int = 0
    threads: int = 1
    masked: bool = False
    results: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random, number = np.random.default_rng(self.seed), accumulation_dtype(self.dtype)
        shape = self.rows, self.hidden_size
        self.x = random.normal(size=shape).astype(number)
        self.branch, self.gradient = (to_stored(random.normal(size=shape), self.dtype)
                                      for _ in range(2))  # fmt: skip
        self.onto = random.normal(size=shape).astype(number)
        self.kept = random.random(shape) < 0.6 if self.masked else np.ones(shape, bool)
        self.scale = 1.25 if self.masked else 1.0
        self.bits = self.place(np.packbits(self.kept, axis=1, bitorder="little").ravel())

    def mask_arguments(self) -> tuple[Any, float]:
        bits = self.bits if self.masked else None
        return native.ffi.cast("uint8_t *", pointer(bits)), self.scale

    def dropped(self, values: Array) -> Array:
        return np.where(self.kept, values * self.scale, 0)

    def forward(self, *, branch: bool, in_place: bool) -> None:
        number, place = accumulation_dtype(self.dtype), self.place
        x, added = place(self.x.flatten()), place(self.branch.flatten())
        total = x if in_place else place(np.full(self.x.size, UNWRITTEN, number))
        normed = place(np.zeros(self.x.size, ELEMENT[self.dtype]))
        inverse = place(np.full(self.rows, UNWRITTEN, number))
        status = native.cpu().nck_rms_norm(
            pointer(x), pointer(added if branch else None), *self.mask_arguments(), self.rows,
            self.hidden_size, native.DTYPES[self.dtype], EPS, pointer(total), pointer(normed), pointer(inverse),
            self.threads,
        )  # fmt: skip
        assert status == OK, last_error()
        self.results = {"sum": total if branch else x, "normed": normed, "inverse": inverse}

    def backward(self, *, stored: bool, in_place: bool) -> None:
        number, place = accumulation_dtype(self.dtype), self.place
        gradient, x, onto = (place(a.flatten()) for a in (self.gradient, self.x, self.onto))
        result = onto if in_place else place(np.full(self.x.size, UNWRITTEN, number))
        stored_result = place(np.zeros(self.x.size, ELEMENT[self.dtype]))
        inverse = place(oracle.rms_norm(self.x.astype(np.float64), EPS)[1].astype(number).ravel())
        status = native.cpu().nck_rms_norm_backward(
            pointer(gradient), pointer(x), pointer(inverse), pointer(onto), self.rows, self.hidden_size,
            native.DTYPES[self.dtype], pointer(result), pointer(stored_result if stored else None),
            *self.mask_arguments(), self.threads,
        )  # fmt: skip
        assert status == OK, last_error()
        self.results = {"result": result, "stored": stored_result}

    def found(self, name: str, dtype: str) -> Array:
        return to_float64(self.results[name], dtype).reshape(self.rows, -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
@pytest.mark.parametrize(("branch", "masked"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_norm_is_the_oracles(
    dtype: str, hidden_size: int, branch: bool, masked: bool, in_place: bool
) -> None:
    norm = Norm(5, hidden_size, dtype, masked=masked)
    norm.forward(branch=branch, in_place=in_place)
    number = "float64" if dtype == "float64" else "float32"
    total = norm.x.astype(np.float64)
    if branch:
        total = total + norm.dropped(to_float64(norm.branch, dtype))
    expected, inverse = oracle.rms_norm(total, EPS)
    assert_near(norm.found("sum", number), total, dtype, numbers=True, terms=1)
    assert_near(norm.found("inverse", number), inverse, dtype, numbers=True, terms=hidden_size)
    assert_near(norm.found("normed", dtype), expected, dtype, numbers=False, terms=hidden_size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
@pytest.mark.parametrize(("stored", "masked"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_norms_derivative_is_the_oracles(
    dtype: str, hidden_size: int, stored: bool, masked: bool, in_place: bool
) -> None:
    norm = Norm(5, hidden_size, dtype, masked=masked)
    norm.backward(stored=stored, in_place=in_place)
    gradient = to_float64(norm.gradient, dtype)
    expected = norm.onto + oracle.rms_norm_backward(gradient, norm.x.astype(np.float64), EPS)
    number = "float64" if dtype == "float64" else "float32"
    assert_near(norm.found("result", number), expected, dtype, numbers=True, terms=hidden_size)
    if stored:
        stored_values = norm.dropped(expected)
        assert_near(
            norm.found("stored", dtype), stored_values, dtype, numbers=False, terms=hidden_size
        )
    else:
        assert not norm.found("stored", dtype).any()


def activated(x: NDArray[Any], dtype: str, squared: bool, place: Placement) -> NDArray[Any]:
    x, result = place(x), place(np.zeros(x.size, ELEMENT[dtype]))
    status = native.cpu().nck_activation(
        pointer(x), x.size, native.DTYPES[dtype], squared, pointer(result), 1
    )
    assert status == OK, last_error()
    return result


def activation_gradient(
    x: NDArray[Any], gradient: NDArray[Any], dtype: str, squared: bool, place: Placement
) -> NDArray[Any]:
    x, result = place(x), place(gradient.copy())
    status = native.cpu().nck_activation_backward(
        pointer(x), x.size, native.DTYPES[dtype], squared, pointer(result), 1
    )
    assert status == OK, last_error()
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("side", ["begin", "end"])
def test_activations_are_one_rounding_away(dtype: str, squared: bool, side: Side) -> None:
    random = np.random.default_rng(3)
    for count in (1, 15, 16, 33, 20001):
        x, gradient = (to_stored(random.normal(size=count), dtype) for _ in range(2))
        values, upstream = to_float64(x, dtype), to_float64(gradient, dtype)
        positive = np.maximum(values, 0)
        found = to_float64(activated(x, dtype, squared, next_to_guard_page(side)), dtype)
        expected = positive**2 if squared else positive
        np.testing.assert_allclose(found, expected, rtol=2 * UNIT[dtype], atol=1e-7)
        slope = 2 * positive if squared else (values > 0).astype(np.float64)
        found = to_float64(
            activation_gradient(x, gradient, dtype, squared, next_to_guard_page(side)), dtype
        )
        np.testing.assert_allclose(found, slope * upstream, rtol=2 * UNIT[dtype], atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_nan_in_activations(dtype: str) -> None:
    x = to_stored(np.array([np.nan, 1.0, -1.0]), dtype)
    found = to_float64(activated(x, dtype, True, lambda array: array), dtype)
    assert np.isnan(found[0]) and list(found[1:]) == [1, 0]


@dataclass
class Heads:
    """Random queries, keys and values, and their positions."""

    rows: int
    sequence_length: int
    heads: int
    head_dim: int
    dtype: str
    turned: bool = True
    normed: bool = True
    segments: bool = False
    place: Placement = lambda array: array
    seed: int = 0

    def __post_init__(self) -> None:
        random, number = np.random.default_rng(self.seed), accumulation_dtype(self.dtype)
        shape = self.rows, self.sequence_length, 3, self.heads, self.head_dim
        self.qkv = to_stored(random.normal(size=shape), self.dtype)
        self.gradient = to_stored(random.normal(size=(*shape[:2], *shape[3:])), self.dtype)
        begins = random.random(shape[:2]) < (0.2 if self.segments else 0)
        self.starts = np.maximum.accumulate(
            np.where(begins, np.arange(self.sequence_length), 0), axis=1
        )
        self.positions = np.arange(self.sequence_length) - self.starts
        self.tables = None
        if self.turned:
            cos, sin = rotary_angles(np.arange(self.sequence_length), self.head_dim)
            self.tables = cos.astype(number), sin.astype(number)

    def oracle(self) -> oracle.Attention:
        angles = None
        if self.tables is not None:
            cos, sin = (table.astype(np.float64)[self.positions] for table in self.tables)
            angles = cos, sin
        eps = EPS if self.normed else None
        return oracle.Attention(to_float64(self.qkv, self.dtype), angles, self.starts, eps)

    def call(self, *, backward: bool, threads: int = 1, **changes: Any) -> tuple[int, Any]:
        place = self.place
        shape = {
            "rows": self.rows, "sequence_length": self.sequence_length, "heads": self.heads,
            "head_dim": self.head_dim, "angle_rows": self.sequence_length, "eps": EPS,
            "dtype": native.DTYPES[self.dtype], "normed": self.normed,
        }  # fmt: skip
        starts = self.starts if self.segments else None
        arrays = {"qkv": self.qkv, "cosines": None, "sines": None, "positions": self.positions,
                  "starts": starts, "gradient": self.gradient}  # fmt: skip
        if self.tables is not None:
            arrays["cosines"], arrays["sines"] = self.tables
        arrays = {**arrays, **{k: v for k, v in changes.items() if k in arrays}}
        kept = {k: None if v is None else place(v.ravel()) for k, v in arrays.items()}
        result = place(np.zeros_like(self.qkv if backward else self.gradient).ravel())
        described = native.ffi.new(
            "nck_attention_shape *",
            {**shape, **{k: v for k, v in changes.items() if k in shape}},
        )
        tokens = [native.ffi.cast("int64_t *", pointer(kept[k])) for k in ("positions", "starts")]
        before = [pointer(kept[k]) for k in ("qkv", "cosines", "sines")]
        if backward:
            status = native.cpu().nck_attention_backward(
                described, *before, *tokens, pointer(kept["gradient"]), pointer(result), threads
            )
        else:
            status = native.cpu().nck_attention(
                described, *before, *tokens, pointer(result), threads
            )
        return status, result.reshape(self.qkv.shape if backward else self.gradient.shape)

    def found(self, *, backward: bool, threads: int = 1) -> NDArray[Any]:
        status, result = self.call(backward=backward, threads=threads)
        assert status == OK, last_error()
        return np.asarray(result)

    def check(self) -> None:
        expected = self.oracle()
        terms = self.sequence_length + self.head_dim
        mixed = to_float64(self.found(backward=False), self.dtype)
        assert_near(mixed, expected.mixed, self.dtype, numbers=False, terms=terms)
        gradient = to_float64(self.found(backward=True), self.dtype)
        upstream = to_float64(self.gradient, self.dtype)
        derived, size = expected.backward(upstream), expected.backward_size(upstream)
        assert_near(gradient, derived, self.dtype, numbers=False, terms=terms, size=max(1.0, size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("segments", [False, True])
def test_attention_is_the_oracles_for_every_option(
    dtype: str, turned: bool, normed: bool, segments: bool
) -> None:
    Heads(2, 37, 3, 12, dtype, turned=turned, normed=normed, segments=segments).check()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3), sequence_length=st.integers(1, 70), heads=st.integers(1, 3),
    half=st.integers(1, 24), dtype=st.sampled_from(DTYPES), segments=st.booleans(),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_attention_is_the_oracles_for_every_shape(
    rows: int, sequence_length: int, heads: int, half: int, dtype: str, segments: bool, seed: int
) -> None:
    Heads(rows, sequence_length, heads, 2 * half, dtype, segments=segments, seed=seed).check()


def test_the_oracles_derivative_is_that_of_its_forward_pass() -> None:
    heads = Heads(1, 6, 2, 4, "float64", segments=True)
    expected = heads.oracle().backward(heads.gradient)
    random, step = np.random.default_rng(1), 1e-6
    for _ in range(5):
        direction = random.normal(size=heads.qkv.shape)
        ends = []
        for sign in (1, -1):
            moved = Heads(1, 6, 2, 4, "float64", segments=True)
            moved.qkv = heads.qkv + sign * step * direction
            ends.append((moved.oracle().mixed * heads.gradient).sum())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx((expected * direction).sum(), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backward", [False, True])
def test_bits_of_attention_depend_on_no_thread(dtype: str, backward: bool) -> None:
    heads = Heads(5, 33, 3, 10, dtype, segments=True)
    alone = heads.found(backward=backward)
    for threads in (2, 3, 64):
        found = heads.found(backward=backward, threads=threads)
        assert found.tobytes() == alone.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_bits_of_norms_depend_on_no_thread(dtype: str, masked: bool) -> None:
    bits = set()
    for threads in (1, 2, 64):
        norm = Norm(700, 65, dtype, threads=threads, masked=masked)
        norm.forward(branch=True, in_place=False)
        forward = [norm.results[k].tobytes() for k in ("sum", "normed", "inverse")]
        norm.backward(stored=True, in_place=False)
        bits.add((*forward, norm.results["result"].tobytes(), norm.results["stored"].tobytes()))
    assert len(bits) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_segment_forward_and_in_its_row_backward(dtype: str) -> None:
    heads = Heads(2, 8, 2, 4, dtype, segments=True)
    heads.starts[0], heads.starts[1] = [0, 0, 0, 3, 3, 3, 3, 3], 0
    heads.qkv[0, 4, 1] = to_stored(np.array(np.nan), dtype)
    mixed = to_float64(heads.found(backward=False), dtype)
    spoiled = np.isnan(mixed).any(axis=(2, 3))
    assert spoiled[0].tolist() == [False] * 4 + [True] * 4
    assert not spoiled[1].any()
    gradient = np.isnan(to_float64(heads.found(backward=True), dtype)).any(axis=(2, 3, 4))
    assert gradient[0, 4] and not gradient[1].any()


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_stay_within_their_arrays(side: Side, dtype: str) -> None:
    place = next_to_guard_page(side)
    for size in (*range(1, 36, 3), 63, 64, 65):
        norm = Norm(1 + size % 3, size, dtype, place)
        norm.forward(branch=True, in_place=size % 2 == 0)
        norm.backward(stored=True, in_place=size % 2 == 0)
        heads = Heads(2, size, 1 + size % 2, 2 + 2 * (size % 9), dtype, segments=True,
                      place=place)  # fmt: skip
        assert np.isfinite(to_float64(heads.found(backward=False), dtype)).all()
        assert np.isfinite(to_float64(heads.found(backward=True), dtype)).all()


FALLING, LATE = np.zeros((2, 4), np.int64), np.zeros((2, 4), np.int64)
FALLING[1] = [0, 1, 0, 0]
LATE[0, 1] = 2
SECOND = np.array([[0, 1, 2, 0], [0, 1, 2, 3]])
BEYOND, LARGEST = SECOND.copy(), SECOND.copy()
BEYOND[1, 2], LARGEST[1, 2] = 4, 2**63 - 1


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": -1}, "rows must be in [0, 2147483648], got -1"),
        ({"sequence_length": 0}, "sequence_length must be in [1, 4096], got 0"),
        ({"sequence_length": 4097}, "sequence_length must be in [1, 4096], got 4097"),
        ({"heads": 0}, "heads must be in [1, 1024], got 0"),
        ({"head_dim": 1025}, "head_dim must be in [1, 1024], got 1025"),
        ({"head_dim": 3}, "head_dim must be even for a rotation, got 3"),
        ({"dtype": 4}, "dtype must be one of NCK_FLOAT32 … NCK_FLOAT16, got 4"),
        ({"eps": 0.0}, "eps must be above 0 and at most 1, got 0"),
        ({"qkv": None}, "qkv must not be NULL"),
        ({"sines": None}, "sines must not be NULL"),
        ({"positions": None}, "positions must not be NULL"),
        ({"angle_rows": 0}, f"angle_rows must be in [1, {2**48}], got 0"),
        ({"angle_rows": 2**48 + 1}, f"angle_rows must be in [1, {2**48}], got {2**48 + 1}"),
        ({"positions": np.full((2, 4), -1)}, "positions must be in [0, 4) for token 0, got -1"),
        ({"positions": BEYOND}, "positions must be in [0, 4) for token 6, got 4"),
        ({"positions": LARGEST}, f"positions must be in [0, 4) for token 6, got {2**63 - 1}"),
        ({"angle_rows": 3, "positions": SECOND}, "positions must be in [0, 3) for token 7, got 3"),
        ({"starts": FALLING}, "starts must be in [1, 2] for token 6, got 0"),
        ({"starts": LATE}, "starts must be in [0, 1] for token 1, got 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_attention_is_named_and_nothing_is_written(
    backward: bool, changes: dict[str, Any], message: str
) -> None:
    heads = Heads(2, 4, 1, 4, "float32", segments=True)
    status, result = heads.call(backward=backward, **changes)
    assert (status, last_error()) == (ARGUMENT, message)
    assert not result.any()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("rms_norm", ("x", None, None, 1.0, -1, 4, 0, EPS, "x", "x", "x", 1),
         "rows must be at least 0, got -1"),
        ("rms_norm", ("x", None, None, 1.0, 1, 4, 0, 2.0, "x", "x", "x", 1),
         "eps must be above 0 and at most 1, got 2"),
        ("rms_norm", ("x", "x", None, 1.0, 1, 4, 0, EPS, None, "x", "x", 1),
         "sum must not be NULL"),
        ("rms_norm", ("x", "x", None, np.nan, 1, 4, 0, EPS, "x", "x", "x", 1),
         "scale must be finite, got nan"),
        ("rms_norm", ("x", "x", None, 1.0, 1, 4, 0, EPS, "x", "x", "x", 0),
         "threads must be at least 1, got 0"),
        ("rms_norm_backward", ("x", None, "x", "x", 1, 4, 0, "x", None, None, 1.0, 1),
         "x must not be NULL"),
        ("rms_norm_backward", ("x", "x", "x", "x", 1, 4, 0, "x", "x", None, np.inf, 1),
         "scale must be finite, got inf"),
        ("activation", ("x", -1, 0, 1, "x", 1), "count must be at least 0, got -1"),
        ("activation", (None, 4, 0, 1, "x", 1), "x must not be NULL"),
        ("activation_backward", ("x", 4, 9, 1, "x", 1),
         "dtype must be one of NCK_FLOAT32 … NCK_FLOAT16, got 9"),
    ],
)  # fmt: skip
def test_a_wrong_norm_or_activation_is_named_and_nothing_is_written(
    name: str, arguments: tuple[Any, ...], message: str
) -> None:
    x = np.full(4, 2.0, np.float32)
    places = {"x": pointer(x), None: native.ffi.NULL}
    given = [places[a] if a is None or isinstance(a, str) else a for a in arguments]
    assert getattr(native.cpu(), f"nck_{name}")(*given) == ARGUMENT
    assert last_error() == message
    assert (x == 2).all()
