"""nck_draw_masks compared with Philox in NumPy, and nck_dropout with NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.calls import ARGUMENT, OK, last_error, pointer
from native.storage import DTYPES, ELEMENT, UNIT, accumulation_dtype, to_float64, to_stored
from native.test_guard_pages import Side, next_to_guard_page
from numpy.typing import NDArray

from nanochat import native
from nanochat.philox import Stream, philox4x32

HIDDEN_SIZES = (1, 7, 8, 9, 16, 17, 63, 64, 65, 130)


def draw(
    masks: NDArray[np.uint8], *, kept: int, places: int, rows: int, hidden_size: int,
    seed: int = 1, step: int = 2, microbatch: int = 3, rank: int = 4, threads: int = 1,
) -> int:  # fmt: skip
    return int(
        native.cpu().nck_draw_masks(
            seed, step, microbatch, rank, places, rows, hidden_size, kept,
            native.ffi.cast("uint8_t *", pointer(masks)), threads,
        )
    )  # fmt: skip


def drawn(
    places: int, rows: int, hidden_size: int, side: Side = "end", **numbers: int
) -> NDArray[np.uint8]:
    """Return the masks, (places, rows, bytes), written next to a protected page."""
    row_bytes = -(-hidden_size // 8)
    masks = next_to_guard_page(side)(np.zeros(places * rows * row_bytes, np.uint8))
    status = draw(masks, places=places, rows=rows, hidden_size=hidden_size, **numbers)
    assert status == OK, last_error()
    return masks.reshape(places, rows, row_bytes)


def oracle(
    places: int, rows: int, hidden_size: int, *, kept: int, seed: int = 1, step: int = 2,
    microbatch: int = 3, rank: int = 4,
) -> NDArray[np.uint8]:  # fmt: skip
    """Return the masks that abi.h defines."""
    blocks = rows * -(-hidden_size // 8)
    counter = np.zeros((places, blocks, 4), np.uint32)
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = np.arange(places)[:, None] + (rank << 16)
    counter[..., 2], counter[..., 3] = microbatch, step
    words = philox4x32(counter.reshape(-1, 4), (seed, Stream.DROPOUT))
    numbers = np.stack((words & 0xFFFF, words >> 16), axis=-1).reshape(places, rows, -1)
    return np.packbits(numbers < kept, axis=-1, bitorder="little")


WORDS = st.sampled_from([0, 1, 12345, 2**31, 2**32 - 1])


@settings(max_examples=100, deadline=None)
@given(
    places=st.integers(1, 4),
    rows=st.integers(1, 20),
    hidden_size=st.integers(1, 140),
    kept=st.one_of(st.sampled_from([1, 2, 32768, 65535, 65536]), st.integers(1, 65536)),
    seed=WORDS,
    step=WORDS,
    microbatch=WORDS,
    rank=st.sampled_from([0, 1, 65535]),
    side=st.sampled_from(["begin", "end"]),
)
def test_masks_are_the_numbers_of_philox(
    places: int, rows: int, hidden_size: int, side: Side, **numbers: int
) -> None:
    found = drawn(places, rows, hidden_size, side, **numbers)
    np.testing.assert_array_equal(found, oracle(places, rows, hidden_size, **numbers))


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_masks_are_the_same_for_any_number_of_threads(threads: int) -> None:
    """Each place has several chunks and a tail of less than eight blocks."""
    alone = drawn(3, 1001, 97, kept=50000)
    assert drawn(3, 1001, 97, kept=50000, threads=threads).tobytes() == alone.tobytes()
    np.testing.assert_array_equal(alone, oracle(3, 1001, 97, kept=50000))


@pytest.mark.parametrize("kept", [3277, 45875, 58982, 65535])
def test_the_share_of_kept_elements_is_the_probability(kept: int) -> None:
    share = kept / 65536
    masks = np.unpackbits(drawn(4, 4000, 64, kept=kept), axis=-1).astype(np.float64)
    error = (share * (1 - share)) ** 0.5
    assert abs(masks.mean() - share) < 5 * error / masks.size**0.5
    # Neighbors in a row, rows and places are uncorrelated.
    noise = (masks - share) / error
    for one, other in (
        (noise[..., 1:], noise[..., :-1]),
        (noise[:, 1:], noise[:, :-1]),
        (noise[1:], noise[:-1]),
    ):
        assert abs((one * other).mean()) < 5 / one.size**0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("side", ["begin", "end"])
def test_kept_elements_are_scaled_and_added_and_others_are_zero(
    dtype: str, hidden_size: int, added: bool, side: Side
) -> None:
    random, rows, place = np.random.default_rng(hidden_size), 5, next_to_guard_page(side)
    x = to_stored(random.normal(size=(rows, hidden_size)), dtype)
    onto = random.normal(size=x.shape).astype(accumulation_dtype(dtype))
    kept = random.random(x.shape) < 0.6
    arrays = x, onto, np.packbits(kept, axis=1, bitorder="little")
    placed = [place(array.ravel()) for array in arrays]
    scale = 65536 / 45875
    products = to_float64(x, dtype) * np.where(kept, scale, 0.0)
    expected = products + onto if added else products
    unit = 4 * UNIT["float64" if dtype == "float64" else "float32"]
    bound = UNIT[dtype] * np.abs(expected) + unit * (np.abs(products) + np.abs(onto))
    for in_place in (False, True):
        result = placed[0] if in_place else place(np.zeros(x.size, ELEMENT[dtype]))
        status = native.cpu().nck_dropout(
            pointer(placed[0]), pointer(placed[1] if added else None),
            native.ffi.cast("uint8_t *", pointer(placed[2])), rows, hidden_size,
            native.DTYPES[dtype], scale, pointer(result), 1,
        )  # fmt: skip
        assert status == OK, last_error()
        found = to_float64(result, dtype).reshape(x.shape)
        assert (np.abs(found - expected) <= bound).all()
        if not added:
            assert (found[~kept] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinity_and_nan_are_dropped_as_other_elements(dtype: str) -> None:
    x = to_stored(np.array([[np.nan, np.inf, 1.0, np.nan]]), dtype)
    bits = np.array([0b1100], np.uint8)
    status = native.cpu().nck_dropout(
        pointer(x), native.ffi.NULL, native.ffi.cast("uint8_t *", pointer(bits)), 1, 4,
        native.DTYPES[dtype], 2.0, pointer(x), 1,
    )  # fmt: skip
    assert status == OK
    np.testing.assert_array_equal(to_float64(x, dtype), [[0, 0, 2, np.nan]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed must be in [0, 4294967295], got -1"),
        ({"step": 2**32}, "step must be in [0, 4294967295], got 4294967296"),
        ({"microbatch": -1}, "microbatch must be in [0, 4294967295], got -1"),
        ({"rank": 65536}, "rank must be in [0, 65535], got 65536"),
        ({"places": 65537}, "places must be in [0, 65536], got 65537"),
        ({"hidden_size": 0}, "hidden_size must be in [1, 1073741824], got 0"),
        ({"rows": -1}, "rows must be in [0, 2147483648], got -1"),
        ({"rows": 2**31 + 1}, "rows must be in [0, 2147483648], got 2147483649"),
        ({"kept": 0}, "kept must be in [1, 65536], got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_named_and_nothing_is_written(
    changes: dict[str, int], message: str
) -> None:
    masks = np.full(4, 77, np.uint8)
    given = {"kept": 5, "places": 1, "rows": 2, "hidden_size": 16, **changes}
    assert (draw(masks, **given), last_error()) == (ARGUMENT, message)
    assert (masks == 77).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": -1}, "rows must be at least 0, got -1"),
        ({"dtype": 9}, "dtype must be one of NCK_FLOAT32 … NCK_FLOAT16, got 9"),
        ({"scale": np.inf}, "scale must be finite, got inf"),
        ({"mask": native.ffi.NULL}, "mask must not be NULL"),
        ({"result": native.ffi.NULL}, "result must not be NULL"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_dropout_is_named_and_nothing_is_written(
    changes: dict[str, Any], message: str
) -> None:
    x, bits = np.full(4, 2.0, np.float32), np.zeros(1, np.uint8)
    given = {
        "x": pointer(x), "onto": native.ffi.NULL,
        "mask": native.ffi.cast("uint8_t *", pointer(bits)), "rows": 1, "hidden_size": 4,
        "dtype": 0, "scale": 1.0, "result": pointer(x), "threads": 1, **changes,
    }  # fmt: skip
    assert (native.cpu().nck_dropout(*given.values()), last_error()) == (ARGUMENT, message)
    assert (x == 2).all()


def test_nothing_to_draw_is_no_work() -> None:
    nothing = np.zeros(0, np.uint8)
    for places, rows in ((0, 5), (5, 0)):
        assert draw(nothing, kept=5, places=places, rows=rows, hidden_size=3) == OK
