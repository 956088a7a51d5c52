"""Token sampling in C++ against nanochat.sampling.draw, the specification: the same tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import _scalar, philox
from nanochat.config.options import TrainConfig
from nanochat.errors import ConfigError, LogitsError
from nanochat.philox import Stream
from nanochat.sampling import draw as specification
from nanochat.sampling import sampling
from nanochat.scalar.draw import draw
from nanochat.scalar.engine import ScalarEngine

INF = math.inf

# Every bit pattern except NaN, and values at the edges of the rules.
float32s = st.one_of(
    st.floats(-30, 30, width=32),
    st.floats(width=32, allow_nan=False),
    st.sampled_from([0.0, -0.0, 1.0, INF, -INF, -87.0, -200.0, 3.4e38, -3.4e38, 1e-45, -1e-40]),
)
float64s = st.one_of(st.floats(-30, 30), st.floats(allow_nan=False), float32s)
temperatures = st.one_of(
    st.floats(0.05, 10), st.floats(0, exclude_min=True, allow_infinity=False),
    st.sampled_from([0.0, 5e-324, 1e-300, 1e-39, 1e39, 1e46, 1e300, 1.0]),
)  # fmt: skip
words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63, 2**64 - 1]))
shares = st.one_of(
    st.floats(0, 1, exclude_min=True),
    st.sampled_from([5e-324, 1e-12, 2.0**-32, 0.5, 1 - 2.0**-33, 1 - 2.0**-53, 1.0]),
)


def both(logits, random, **options):
    """Return the tokens of the specification and of C++, or the message of each error."""
    found = []
    for function in (specification.draw, draw):
        try:
            found.append(function(logits, random, **options).tolist())
        except (ValueError, LogitsError) as error:
            found.append(str(error))
    return found


def edges(weights: np.ndarray) -> list[int]:
    """Return the last random integer of each token's share and the first of the next share."""
    total, sums = int(weights.sum()), np.cumsum(weights, dtype=np.uint64).tolist()
    firsts = [-(-(running << 64) // total) for running in sums]
    return [r for first in firsts for r in (first - 1, first) if 0 <= r < 2**64]


@settings(max_examples=500)
@given(st.data(), temperatures, st.integers(0, 14), shares)
def test_a_row_of_any_float32_draws_the_same_token(data, temperature, top_k, top_p):
    logits = np.array([data.draw(st.lists(float32s, min_size=1, max_size=40))], dtype=np.float32)
    random = np.array([data.draw(words)], dtype=np.uint64)
    theirs, ours = both(logits, random, temperature=temperature, top_k=top_k, top_p=top_p)
    assert ours == theirs


@settings(max_examples=300)
@given(st.data(), temperatures, st.integers(0, 14), shares)
def test_doubles_are_rounded_to_float32_first(data, temperature, top_k, top_p):
    logits = np.array([data.draw(st.lists(float64s, min_size=1, max_size=40))])
    random = np.array([data.draw(words)], dtype=np.uint64)
    theirs, ours = both(logits, random, temperature=temperature, top_k=top_k, top_p=top_p)
    assert ours == theirs


@settings(max_examples=200)
@given(st.lists(st.floats(-28, 0, width=32), min_size=1, max_size=30), st.floats(0.3, 3))
def test_every_token_has_the_same_words_to_the_last(row, temperature):
    logits = np.array(row, dtype=np.float32)
    random = np.array(edges(specification.integer_weights(logits, temperature)), dtype=np.uint64)
    logits = np.tile(logits, (len(random), 1))
    theirs, ours = both(logits, random, temperature=temperature)
    assert ours == theirs
    assert len(set(ours)) >= 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 2.0, 9.0]),
    st.integers(0, 5), st.integers(0, 720), shares,
)  # fmt: skip
def test_any_vocabulary_draws_the_same_tokens(vocab, seed, spread, digits, top_k, top_p):
    # Logits that are rounded to few digits are tied.
    rows = philox.normals(seed, Stream.INIT, vocab, 4 * vocab).reshape(4, vocab) * spread
    random = philox.random_u64(seed, Stream.SAMPLING, 0, 4)
    for logits in (rows.round(digits), rows.round(digits).astype(np.float32)):
        theirs, ours = both(logits, random, temperature=0.8, top_k=top_k, top_p=top_p)
        assert ours == theirs


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, INF, -INF]), min_size=1, max_size=12),
       st.integers(0, 13), shares, temperatures)  # fmt: skip
def test_ties_keep_the_same_tokens(row, top_k, top_p, temperature):
    random = np.array([k * ((2**64 - 1) // 96) for k in range(97)], dtype=np.uint64)
    logits = np.tile(np.array(row, dtype=np.float32), (97, 1))
    theirs, ours = both(logits, random, temperature=temperature, top_k=top_k, top_p=top_p)
    assert ours == theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [math.nan, -math.nan])
def test_nan_names_its_row_as_the_specification_does(dtype, bad):
    logits = np.zeros((3, 40), dtype=dtype)
    logits[1, 38], logits[1, 2] = bad, INF
    theirs, ours = both(logits, np.zeros(3, dtype=np.uint64))
    assert ours == theirs == "logits of row 1 hold nan"


def test_nothing_to_draw_names_its_row_as_the_specification_does():
    logits = np.array([[0.0, 0.0], [-INF, -INF]])
    theirs, ours = both(logits, np.zeros(2, dtype=np.uint64))
    assert ours == theirs == "logits of row 1 are all -inf"


def test_the_largest_vocabulary_sums_exactly_and_a_larger_one_is_refused():
    logits = np.zeros((1, specification.MAX_VOCAB), dtype=np.float32)
    assert draw(logits, np.array([2**64 - 1], dtype=np.uint64)) == specification.MAX_VOCAB - 1
    assert draw(logits, np.array([2**63], dtype=np.uint64)) == specification.MAX_VOCAB // 2
    larger = np.zeros((1, specification.MAX_VOCAB + 1), dtype=np.float32)
    theirs, ours = both(larger, np.zeros(1, dtype=np.uint64))
    assert ours == theirs


def test_no_rows_draw_no_tokens():
    got = draw(np.empty((0, 5)), np.empty(0, dtype=np.uint64))
    assert got.shape == (0,)
    assert got.dtype == np.int64


def test_a_strided_array_draws_as_its_copy():
    logits = philox.normals(3, Stream.INIT, 0, 120).reshape(10, 12).T[:, ::2]
    random = philox.random_u64(3, Stream.SAMPLING, 0, 12)
    assert draw(logits, random).tolist() == draw(logits.copy(), random).tolist()


@pytest.mark.parametrize("temperature", [math.nan, INF, -INF, -5e-324, -0.5])
def test_temperature_must_be_finite_and_at_least_0(temperature):
    with pytest.raises(ConfigError, match=r"^temperature must be finite and >= 0, got "):
        draw(np.zeros((1, 2)), np.zeros(1, dtype=np.uint64), temperature=temperature)
    with pytest.raises(ValueError, match=r"^temperature must be finite and >= 0, got "):
        _scalar.draw_tokens(np.zeros((1, 2)), np.zeros(1, dtype=np.uint64), temperature)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": -1}, r"^top_k must be at least 0, got -1$"),
        ({"top_p": 0.0}, r"^top_p must be above 0 and at most 1, got 0\.0$"),
        ({"top_p": 1.5}, r"^top_p must be above 0 and at most 1, got 1\.5$"),
        ({"top_p": math.nan}, r"^top_p must be above 0 and at most 1, got nan$"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        draw(np.zeros((1, 2)), np.zeros(1, dtype=np.uint64), **options)


@pytest.mark.parametrize(
    ("logits", "random"),
    [(np.zeros(3), [0]), (np.zeros((2, 3)), [0]), (np.zeros((1, 3)), [[0]])],
)
def test_shapes_that_do_not_belong_together_are_refused(logits, random):
    with pytest.raises(ValueError, match=r"^draw\(\) takes \(rows, vocab\) logits and \(rows,\)"):
        draw(logits, np.array(random, dtype=np.uint64))


def test_a_row_without_tokens_is_refused():
    with pytest.raises(ValueError, match=r"^vocabulary must be at least 1 token, got 0$"):
        draw(np.empty((1, 0)), np.zeros(1, dtype=np.uint64))


def test_another_dtype_is_refused():
    with pytest.raises(TypeError, match=r"^logits must be float32 or float64, got int64$"):
        draw(np.zeros((1, 2), dtype=np.int64), np.zeros(1, dtype=np.uint64))


# ------------------------------------------------------------------------------------- the decoder


class WithoutDraw:
    """An engine whose decoder has no `draw`."""

    def __init__(self, engine):
        self.engine = engine

    def open_decoder(self, prompts):
        decoder = self.engine.open_decoder(prompts)

        class Plain:
            logits = property(lambda _: decoder.logits)

            def advance(self, ids):
                decoder.advance(ids)

        return Plain()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "microgpt"},
        {"preset": "microgpt", "positions": "rope"},
        {"preset": "microgpt", "numerics": "exact"},
        {"model_kind": "bigram"},
    ],
)
def test_sampling_draws_natively_what_the_specification_draws(monkeypatch, changes, dtype):
    if dtype == "float32" and changes.get("numerics") == "exact":
        changes = {**changes, "numerics": "fast"}
    config = TrainConfig(mode="scalar", init_std=0.8, **changes)
    engine = ScalarEngine(config, 11, dtype=dtype)
    wanted = sampling.SamplingSettings(
        temperature=0.8, top_k=7, top_p=0.9, max_new_tokens=24, seed=3
    )
    theirs = list(sampling.sample_tokens(WithoutDraw(engine), [0, 4], wanted, rows=3))

    def refuse(*_, **__):
        raise AssertionError("the specification drew")

    monkeypatch.setattr(sampling, "draw", refuse)
    assert list(sampling.sample_tokens(engine, [0, 4], wanted, rows=3)) == theirs
    assert len(theirs) > 1
