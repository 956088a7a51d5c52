"""The draw that decoders share: the tokens of the reference, for any dtype and number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from nanochat.errors import LogitsError
from nanochat.sampling.cpu_draw import ONE_THREAD_LOGITS, DrawsOnCpu
from nanochat.sampling.draw import draw

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("options", [PLAIN, {"temperature": 0.7, "top_k": 40, "top_p": 0.9}])
def test_many_rows_draw_the_tokens_of_the_reference_on_any_number_of_threads(
    dtype, threads, options
):
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(90, 400)).astype(dtype)
    assert logits.size > ONE_THREAD_LOGITS
    random = generator.integers(0, 1 << 64, len(logits), dtype=np.uint64)
    decoder = DrawsOnCpu()
    decoder.draw_threads = threads
    expected = draw(logits, random, **options)
    np.testing.assert_array_equal(decoder.draw(logits, random, **options), expected)
    some = slice(None, None, 7)  # strided
    found = decoder.draw(logits[some], random[some].copy(), **options)
    np.testing.assert_array_equal(found, expected[some])


def test_a_row_without_a_token_is_named():
    logits = np.zeros((3, 4))
    logits[1] = -np.inf
    with pytest.raises(LogitsError, match=r"^logits of row 1 are all -inf$"):
        DrawsOnCpu().draw(logits, np.zeros(3, np.uint64), **PLAIN)
