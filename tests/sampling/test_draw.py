"""The token draw against a slow oracle in Python integers, and against the distributions it means.

The oracle shares no code with the draw: float32 operations are Python's, rounded by struct.
"""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import philox
from nanochat.errors import ConfigError, LogitsError
from nanochat.philox import Stream
from nanochat.sampling.draw import MAX_VOCAB, draw, exp32, integer_weights

INF = math.inf


def f32(x: float) -> float:
    """Rounded to float32. One operation on float32 values in float64 and this rounding equal one
    float32 operation: 53 bits are more than 2·24 + 2."""
    try:
        return struct.unpack("f", struct.pack("f", x))[0]
    except OverflowError:
        return math.copysign(INF, x)


COEFFICIENTS = [
    f32(c)
    for c in (
        1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
        5.0000001201e-1, 1.0, 1.0,
    )
]  # fmt: skip


def slow_exp(z: float) -> float:
    if z < -87.0:
        return 0.0
    n = float(round(f32(z * f32(1.44269504088896341))))
    r = f32(f32(z - f32(n * 0.693359375)) - f32(n * f32(-2.12194440e-4)))
    power = COEFFICIENTS[0]
    for c in COEFFICIENTS[1:]:
        power = f32(f32(power * r) + c)
    return math.ldexp(power, int(n))


def slow_weights(row: list[float], temperature: float) -> list[int]:
    x = [f32(v) for v in row]
    m = max(x)
    if m == INF:
        return [2**40 if v == INF else 0 for v in x]
    largest = f32(3.4028234663852886e38)
    inverse = 1 / temperature if temperature else INF
    t = min(f32(inverse) if inverse < INF else INF, largest)
    weights = []
    for v in x:
        d = f32(v - m)
        weights.append(0 if d == -INF else math.floor(slow_exp(f32(d * t)) * 2**40))
    return weights


def slow_draw(row, r, temperature=1.0, top_k=0, top_p=1.0) -> int:
    weights = slow_weights(row, temperature)
    order = sorted(range(len(row)), key=lambda i: (-f32(row[i]), i))
    order = order[: 1 if temperature == 0 else top_k or len(row)]
    needed, total, kept = int(top_p * 2**32), sum(weights[i] for i in order), []
    for i in order:
        kept.append(i)
        if sum(weights[j] for j in kept) * 2**32 >= needed * total:
            break
    target = r * sum(weights[i] for i in kept) >> 64
    running = 0
    for i in sorted(kept):
        running += weights[i]
        if running > target:
            return i
    raise AssertionError("the running sum ends above every target")


def u64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


# ------------------------------------------------------------------------------------ exponential


def spread_floats(stride: int) -> np.ndarray:
    """Every stride-th float32 of [−87, −2⁻³⁰]."""
    first, last = (int(np.float32(x).view(np.uint32)) for x in (2.0**-30, 87.0))
    return -np.arange(first, last + 1, stride, dtype=np.uint32).view(np.float32)


def test_exp32_is_within_1_2_ulp_of_float64_exp():
    z = spread_floats(101)
    true = np.exp(z.astype(np.float64))
    ulp = np.ldexp(1.0, np.frexp(true)[1] - 24)
    assert np.max(np.abs(exp32(z) - true) / ulp) <= 1.2
    assert exp32(z).dtype == np.float32


def test_exp32_never_exceeds_one_and_is_one_at_zero():
    tiny = np.array([0.0, -0.0, -1e-45, -1e-38, -(2.0**-31)], dtype=np.float32)
    assert exp32(tiny).tolist() == [1.0] * 5
    assert exp32(spread_floats(1009)).max() == 1.0


def test_exp32_is_zero_below_minus_87_and_not_at_it():
    below = np.nextafter(np.float32(-87), np.float32(-INF))
    z = np.array([-87.0, below, -1000.0, -3e38, -INF], dtype=np.float32)
    assert exp32(z)[0] == pytest.approx(math.exp(-87), rel=2e-7)
    assert exp32(z)[1:].tolist() == [0.0] * 4


def test_exp32_equals_the_slow_oracle_to_the_bit():
    z = spread_floats(300_007)
    assert exp32(z).tolist() == [slow_exp(float(v)) for v in z]


def test_exp32_has_the_pinned_bits_that_every_kernel_must_have():
    digest = hashlib.sha256(exp32(spread_floats(1009)).astype("<f4").tobytes()).hexdigest()
    assert digest == "3f39c507dfb6af0541e16ef6169606c3884c60ea52560388b6d300094ffca4a6"


# ------------------------------------------------------------------------- the draw as a function

logit = st.one_of(
    st.floats(-20, 20, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -INF, -200.0, 3e38, -3e38, 1e-40]),
    st.floats(allow_nan=False, allow_infinity=False),
)
rows_of_logits = st.lists(logit, min_size=1, max_size=12).filter(
    lambda row: any(f32(v) > -INF for v in row)
)
temperatures = st.one_of(
    st.floats(0.05, 10), st.sampled_from([0.0, 5e-324, 1e-300, 1e-39, 1e39, 1e300, 1.0])
)
words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63, 2**64 - 1]))
shares = st.one_of(st.floats(0, 1, exclude_min=True), st.sampled_from([1e-12, 0.5, 0.999999, 1.0]))


@settings(max_examples=500)
@given(rows_of_logits, words, temperatures, st.integers(0, 14), shares)
def test_draw_equals_the_slow_integer_oracle(row, r, temperature, top_k, top_p):
    got = draw(np.array([row]), u64(r), temperature=temperature, top_k=top_k, top_p=top_p)
    assert got.tolist() == [slow_draw(row, r, temperature, top_k, top_p)]


@given(rows_of_logits, temperatures)
def test_weights_equal_the_slow_oracle_and_the_likeliest_token_weighs_2_to_the_40(row, temperature):
    weights = integer_weights(np.array([f32(v) for v in row], dtype=np.float32), temperature)
    assert weights.tolist() == slow_weights(row, temperature)
    assert max(weights.tolist()) == 2**40


@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=6), words, st.integers(0, 3))
def test_rows_are_drawn_independently_of_each_other(row, r, top_k):
    alone = draw([row], u64(r), top_k=top_k, top_p=0.9)
    beside = draw([row[::-1], row, row], u64(5, r, r), top_k=top_k, top_p=0.9)
    assert beside[1] == beside[2] == alone[0]


@given(st.lists(st.integers(-(2**12), 2**12), min_size=1, max_size=8), words)
def test_a_huge_common_offset_changes_nothing(row, r):
    near = np.array([row], dtype=np.float64)
    assert draw(near, u64(r)) == draw(near + 2.0**23, u64(r))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_dtype_is_drawn_from_as_float32(dtype):
    logits = np.array([[0.5, 2.0, -1.0]], dtype=dtype)
    assert [int(draw(logits, u64(r))[0]) for r in (0, 2**62, 2**64 - 1)] == [0, 1, 2]


def test_a_single_token_is_always_drawn():
    for r in (0, 2**63, 2**64 - 1):
        assert draw([[-5.0]], u64(r), temperature=0.01, top_k=1, top_p=0.1).tolist() == [0]


def test_no_rows_draw_no_tokens():
    got = draw(np.empty((0, 5)), u64())
    assert got.shape == (0,)
    assert got.dtype == np.int64


def test_a_random_word_falls_where_the_cumulative_share_says():
    # Four equal weights: each token owns a quarter of the words.
    logits = [[0.0, 0.0, 0.0, 0.0]]
    edges = [0, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 3 * 2**62 - 1, 3 * 2**62, 2**64 - 1]
    assert [int(draw(logits, u64(r))[0]) for r in edges] == [0, 0, 1, 1, 2, 2, 3, 3]


# -------------------------------------------------------------------------------- the distribution


def counts_of(logits, n=10_000, **options):
    random = philox.random_u64(7, Stream.SAMPLING, 0, n)
    return np.bincount(
        draw(np.tile(np.asarray(logits, float), (n, 1)), random, **options), minlength=len(logits)
    )


def chi_square(counts, probabilities):
    expected = np.asarray(probabilities) * counts.sum()
    seen = expected > 0
    assert not counts[~seen].any()
    return float(((counts - expected)[seen] ** 2 / expected[seen]).sum())


CRITICAL = {1: 15.14, 2: 18.42, 4: 23.51}  # chi-square at p = 1e-4, by degrees of freedom


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_softmax_at_a_temperature(temperature):
    logits = np.array([0.0, 1.0, -1.0, 2.0, 0.5])
    p = np.exp(logits / temperature)
    assert chi_square(counts_of(logits, temperature=temperature), p / p.sum()) < CRITICAL[4]


def test_top_k_renormalises_over_the_k_likeliest():
    logits = np.array([0.0, 1.0, -1.0, 2.0, 0.5])
    p = np.exp(logits) * np.array([0, 1, 0, 1, 1])
    assert chi_square(counts_of(logits, top_k=3), p / p.sum()) < CRITICAL[2]


def test_top_p_keeps_the_shortest_prefix_that_reaches_the_share():
    logits = np.log([0.1, 0.4, 0.2, 0.3])
    p = np.array([0, 0.4, 0, 0.3]) / 0.7
    assert chi_square(counts_of(logits, top_p=0.65), p) < CRITICAL[1]


def test_top_p_is_taken_of_what_top_k_kept():
    # Of 0.4 and 0.3 alone the first has share 0.57.
    assert counts_of(np.log([0.1, 0.4, 0.2, 0.3]), n=500, top_k=2, top_p=0.55).tolist() == [
        0, 500, 0, 0,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- edges


def kept_by(logits, **options):
    """Which tokens any random word can draw."""
    steps = 257
    random = np.array([k * ((2**64 - 1) // (steps - 1)) for k in range(steps)], dtype=np.uint64)
    return sorted(set(draw(np.tile(logits, (steps, 1)), random, **options).tolist()))


def test_ties_at_the_edge_of_top_k_go_to_the_lower_index():
    assert kept_by([1.0, 2.0, 1.0, 1.0], top_k=2) == [0, 1]
    assert kept_by([0.0, -0.0, 0.0], top_k=2) == [0, 1]


def test_ties_at_the_edge_of_top_p_go_to_the_lower_index():
    assert kept_by([1.0, 1.0, 1.0, 1.0], top_p=0.5) == [0, 1]
    assert kept_by([1.0, 1.0, 1.0, 1.0], top_p=0.500001) == [0, 1, 2]


def test_top_p_always_keeps_the_likeliest_token():
    assert kept_by([0.0, 3.0, 1.0], top_p=1e-300) == [1]


@pytest.mark.parametrize("top_k", [0, 3, 100, 2**30])
def test_top_k_of_zero_or_of_the_whole_vocabulary_keeps_all(top_k):
    assert kept_by([0.0, 0.5, 0.2], top_k=top_k) == [0, 1, 2]


def test_minus_infinity_is_never_drawn():
    assert kept_by([-INF, 0.0, -INF, 0.0, -INF]) == [1, 3]
    assert kept_by([-INF, 0.0, -INF, -INF], top_k=3, top_p=0.99) == [1]


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1.0, 1e300])
def test_plus_infinity_shares_the_draw_equally(temperature):
    logits = [INF, 5.0, INF, -INF]
    assert kept_by(logits, temperature=temperature) == [0, 2]
    counts = counts_of(logits, temperature=temperature, n=4000)
    assert chi_square(counts, [0.5, 0, 0.5, 0]) < CRITICAL[1]
    assert kept_by(logits, temperature=temperature, top_k=1) == [0]


def test_float64_logits_beyond_float32_are_infinite():
    assert kept_by([1e300, 0.0, 1e200]) == [0, 2]


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-39])
def test_the_smallest_temperatures_take_the_maximum(temperature):
    assert kept_by([1.0, 3.0, 2.0, 3.0], temperature=temperature) == [1, 3]


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0])
@pytest.mark.parametrize(
    ("logits", "first"),
    [([1.0, 3.0, 2.0, 3.0], 1), ([-0.0, 0.0, -1.0], 0), ([-INF, INF, 5.0, INF], 1), ([-INF, -9.0], 1),
     ([0.0, 1e-45, 1e-45], 1), ([3e38, -3e38, 3e38], 0)],
)  # fmt: skip
def test_temperature_0_takes_the_first_of_the_largest_logits(temperature, logits, first):
    for options in ({}, {"top_k": 3}, {"top_p": 0.01}, {"top_k": 1, "top_p": 0.5}):
        assert kept_by(logits, temperature=temperature, **options) == [first]


def test_an_enormous_temperature_is_uniform_over_what_is_finite():
    assert chi_square(counts_of([0.0, 50.0, -INF], temperature=1e300), [0.5, 0.5, 0]) < CRITICAL[1]


def test_a_spread_wider_than_float32_still_draws_the_maximum():
    assert kept_by([-3e38, 3e38, 0.0], temperature=1e300) == [1, 2]
    assert kept_by([-3e38, 3e38, 0.0]) == [1]


def test_the_largest_vocabulary_sums_exactly():
    logits = np.zeros((1, MAX_VOCAB), dtype=np.float32)
    assert draw(logits, u64(2**64 - 1)).tolist() == [MAX_VOCAB - 1]
    assert draw(logits, u64(2**63)).tolist() == [MAX_VOCAB // 2]


def test_a_larger_vocabulary_is_refused():
    with pytest.raises(
        ValueError, match=r"^vocabulary must be at most 1048576 tokens, got 1048577$"
    ):
        draw(np.zeros((1, MAX_VOCAB + 1), dtype=np.float32), u64(0))


def test_nan_names_its_row():
    logits = np.zeros((3, 4))
    logits[1, 2] = math.nan
    with pytest.raises(LogitsError, match=r"^logits of row 1 hold nan$"):
        draw(logits, u64(0, 0, 0))


def test_nan_beside_infinity_is_still_nan():
    with pytest.raises(LogitsError, match=r"^logits of row 0 hold nan$"):
        draw([[INF, math.nan]], u64(0))


def test_nothing_to_draw_names_its_row():
    with pytest.raises(LogitsError, match=r"^logits of row 1 are all -inf$"):
        draw([[0.0, 0.0], [-INF, -INF]], u64(0, 0))


@pytest.mark.parametrize(
    ("temperature", "shown"),
    [(math.nan, "nan"), (INF, "inf"), (-INF, "-inf"), (-5e-324, "-5e-324"), (-0.5, "-0.5")],
)
def test_temperature_must_be_finite_and_at_least_0(temperature, shown):
    with pytest.raises(ConfigError, match=rf"^temperature must be finite and >= 0, got {shown}$"):
        draw([[0.0]], u64(0), temperature=temperature)


@given(st.lists(st.lists(logit, min_size=5, max_size=5), min_size=2, max_size=4), shares)
def test_many_rows_at_once_equal_each_row_alone(rows, top_p):
    rows = [[0.0, *row] for row in rows]
    random = philox.random_u64(3, Stream.SAMPLING, 1, len(rows))
    together = draw(np.array(rows), random, temperature=0.7, top_k=4, top_p=top_p)
    alone = [int(draw([row], u64(r), temperature=0.7, top_k=4, top_p=top_p)[0])
             for row, r in zip(rows, random, strict=True)]  # fmt: skip
    assert together.tolist() == alone
