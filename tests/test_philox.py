"""Philox against Random123's test vectors, and its distributions against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.philox import (
    Stream,
    item_of_name,
    normals,
    permutation,
    philox4x32,
    random_u64,
    random_u64s,
    uniforms,
)

ONES = 0xFFFFFFFF

# Random123 1.14, tests/kat_vectors, philox4x32 with 10 rounds: counter, key, result.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def scalar_philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & ONES, (p0 >> 32) ^ c3 ^ k1, p0 & ONES
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return c0, c1, c2, c3


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_equals_the_random123_vectors(counter, key, expected):
    got = philox4x32(np.array([counter], dtype=np.uint32), key)
    assert got.dtype == np.uint32
    assert tuple(got[0].tolist()) == expected
    assert scalar_philox(counter, key) == expected


def test_rows_of_one_call_equal_calls_of_one_row():
    counters = np.array([vector[0] for vector in VECTORS], dtype=np.uint32)
    together = philox4x32(counters, (7, 9))
    assert together.tolist() == [list(scalar_philox(tuple(c), (7, 9))) for c in counters.tolist()]


@given(
    seed=st.integers(0, ONES),
    item=st.integers(0, 2**64 - 1),
    first=st.integers(0, 2**33),
    count=st.integers(0, 9),
)
def test_u64_is_two_words_of_the_counter_that_the_docstring_names(seed, item, first, count):
    expected = []
    for index in range(first, first + count):
        block = index // 2
        counter = (block & ONES, block >> 32, item & ONES, item >> 32)
        words = scalar_philox(counter, (seed, int(Stream.BATCHES)))
        high, low = words[2 * (index % 2)], words[2 * (index % 2) + 1]
        expected.append(high << 32 | low)
    assert random_u64(seed, Stream.BATCHES, item, count, first).tolist() == expected


@given(seed=st.integers(0, ONES), item=st.integers(0, 2**63), items=st.integers(1, 4),
       count=st.integers(1, 9), pairs=st.integers(0, 2**33))  # fmt: skip
def test_items_in_one_call_are_those_of_calls_of_one(seed, item, items, count, pairs):
    found = random_u64s(seed, Stream.BATCHES, item, items, count, first=2 * pairs)
    expected = [
        random_u64(seed, Stream.BATCHES, item + i, count, first=2 * pairs) for i in range(items)
    ]
    assert np.array_equal(found, expected)


@given(first=st.integers(0, 40), count=st.integers(0, 40))
def test_first_and_count_slice_one_sequence(first, count):
    whole = random_u64(3, Stream.INIT, 5, 80)
    assert np.array_equal(random_u64(3, Stream.INIT, 5, count, first), whole[first : first + count])


def test_uniforms_are_the_upper_53_bits_and_have_uniform_moments():
    draws = uniforms(1337, Stream.SAMPLING, 0, 200_000)
    words = random_u64(1337, Stream.SAMPLING, 0, 1000)
    assert draws[:1000].tolist() == [(int(word) >> 11) * 2.0**-53 for word in words]
    assert draws.min() >= 0
    assert draws.max() < 1
    for power in (1, 2, 3, 4):
        # Five standard errors of the mean of u**power.
        error = math.sqrt((1 / (2 * power + 1) - 1 / (power + 1) ** 2) / len(draws))
        assert abs(np.mean(draws**power) - 1 / (power + 1)) < 5 * error
    bins = np.bincount((draws * 64).astype(int), minlength=64)
    chi_squared = ((bins - len(draws) / 64) ** 2 / (len(draws) / 64)).sum()
    assert chi_squared < 63 + 5 * math.sqrt(2 * 63)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000])
def test_normals_equal_scalar_box_muller(count):
    u = uniforms(11, Stream.INIT, 42, count + count % 2).tolist()
    expected = []
    for i in range(0, len(u), 2):
        radius = math.sqrt(-2.0 * math.log1p(-u[i]))
        expected += [
            radius * math.cos(2.0 * math.pi * u[i + 1]),
            radius * math.sin(2.0 * math.pi * u[i + 1]),
        ]
    got = normals(11, Stream.INIT, 42, count)
    assert len(got) == count
    np.testing.assert_allclose(got, expected[:count], rtol=1e-13, atol=1e-15)


def test_normals_have_the_moments_of_a_standard_normal():
    draws = normals(1, Stream.INIT, item_of_name("wte"), 200_000)
    n = len(draws)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(draws**power) - moment) < 5 * math.sqrt(variance / n)
    assert abs(np.mean(draws[0::2] * draws[1::2])) < 5 / math.sqrt(n / 2)  # pairs share a block


def test_fewer_normals_are_a_prefix_of_more():
    assert np.array_equal(normals(1, Stream.INIT, 0, 7), normals(1, Stream.INIT, 0, 100)[:7])


@given(seed=st.integers(0, ONES), count=st.integers(0, 200))
def test_permutation_holds_every_number_once_and_sorts_the_keys(seed, count):
    order = permutation(seed, Stream.SPLIT, 0, count)
    keys = random_u64(seed, Stream.SPLIT, 0, count).tolist()
    assert order.tolist() == sorted(range(count), key=lambda i: (keys[i], i))


def test_every_permutation_of_three_is_equally_likely():
    draws = [tuple(permutation(5, Stream.BATCHES, item, 3)) for item in range(6000)]
    counts = [draws.count(order) for order in set(draws)]
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts) < 5 * math.sqrt(6000 * (1 / 6) * (5 / 6))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, Stream.INIT, 0), (2, Stream.INIT, 0)),
        ((1, Stream.INIT, 0), (1, Stream.BATCHES, 0)),
        ((1, Stream.INIT, 0), (1, Stream.INIT, 1)),
        ((1, Stream.INIT, 0), (1, Stream.INIT, 1 << 32)),
    ],
    ids=["seed", "stream", "item", "item-high-word"],
)
def test_seeds_streams_and_items_are_independent(one, other):
    a, b = uniforms(*one, 50_000), uniforms(*other, 50_000)
    assert not set(a.tolist()) & set(b.tolist())
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))


def test_streams_have_numbers_that_never_change():
    assert {stream.name: int(stream) for stream in Stream} == {
        "INIT": 1,
        "BATCHES": 2,
        "SAMPLING": 3,
        "SPLIT": 4,
        "DROPOUT": 5,
    }


def test_item_of_name_is_the_crc32_of_the_name():
    assert item_of_name("123456789") == 0xCBF43926  # the check value of CRC-32
