"""Both sampling ops against nanochat/sampling/draw.py, which tests/sampling checks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat import philox
from nanochat.errors import KernelError, LogitsError
from nanochat.ops import sample
from nanochat.ops._sample import refuse_rows_without_token, sample_with_random
from nanochat.philox import Stream
from nanochat.sampling import draw as specification

INF = math.inf
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# Ordinary numbers, and those at the edges of the rules.
logit = st.one_of(
    st.floats(-30, 30, width=32),
    st.floats(width=32, allow_nan=False),
    st.sampled_from([0.0, -0.0, 1.0, INF, -INF, -87.0, -200.0, 3.4e38, -3.4e38, 1e-45, -1e-40]),
)
rows_of_one_length = st.integers(1, 40).flatmap(
    lambda vocab: st.lists(st.lists(logit, min_size=vocab, max_size=vocab), min_size=1, max_size=5)
)
temperatures = st.one_of(
    st.floats(0.05, 10), st.sampled_from([0.0, 5e-324, 1e-300, 1e-39, 1e39, 1e300, 1.0])
)
shares = st.one_of(
    st.floats(0, 1, exclude_min=True),
    st.sampled_from([5e-324, 1e-12, 2.0**-32, 0.5, 1 - 2.0**-33, 1 - 2.0**-53, 1.0]),
)


def random_words(rows: int, item: int = 0) -> Tensor:
    return torch.from_numpy(philox.random_u64(5, Stream.SAMPLING, item, rows))


def specified(logits: Tensor, random: Tensor, **options: Any) -> list[int] | str:
    """Return the specification's tokens or message. float64 holds every dtype exactly."""
    try:
        with np.errstate(over="ignore"):
            return specification.draw(logits.double().numpy(), random.numpy(), **options).tolist()
    except (ValueError, LogitsError) as error:
        return str(error)


def ours(logits: Tensor, random: Tensor, **options: Any) -> list[int] | str:
    try:
        return sample_with_random(logits, random, **options).tolist()
    except KernelError as error:
        return str(error)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None)
@given(rows_of_one_length, temperatures, st.integers(0, 44), shares, st.integers(0, 99))
def test_any_rows_draw_what_the_specification_draws(dtype, rows, temperature, top_k, top_p, item):
    logits = torch.tensor(rows, dtype=torch.float64).to(dtype)
    random = random_words(len(rows), item)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    assert ours(logits, random, **options) == specified(logits, random, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 65, 255, 256, 257, 1023, 4096, 5003, 20011])
def test_vocabularies_around_every_block_draw_what_the_specification_draws(vocab, dtype):
    generator = torch.Generator().manual_seed(vocab)
    random = random_words(6)
    for spread, digits in ((1.0, 8), (8.0, 1), (0.1, 1)):
        rows = torch.randn(6, vocab, generator=generator, dtype=torch.float64) * spread
        logits = rows.round(decimals=digits).to(dtype)  # few digits: many ties
        for top_k, top_p in (
            (0, 1.0),
            (1, 1.0),
            (50, 1.0),
            (50, 0.9),
            (0, 0.9),
            (0, 0.3),
            (2000, 1.0),
        ):
            options = {"temperature": 0.8, "top_k": top_k, "top_p": top_p}
            assert ours(logits, random, **options) == specified(logits, random, **options)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("shape", ["one token", "two plateaus", "ascending", "masked"])
def test_top_p_of_a_long_row_of_any_shape(shape, top_p):
    vocab = 9001
    row = torch.randn(vocab, generator=torch.Generator().manual_seed(1))
    if shape == "one token":  # a sample of the row misses it
        row[4711] = 60.0
    elif shape == "two plateaus":
        row = torch.where(row > 0, 1.0, -1.0)
    elif shape == "ascending":
        row = row.sort().values
    else:
        row[row < 1.5] = -INF
    logits, random = row.repeat(8, 1), random_words(8)
    options = {"temperature": 1.0, "top_p": top_p}
    assert ours(logits, random, **options) == specified(logits, random, **options)


def test_zeros_of_either_sign_are_tied_and_ties_go_to_the_lower_index():
    logits = torch.tensor([[-0.0, 0.0, -0.0, 0.0, -1.0]]).repeat(64, 1)
    tokens = sample_with_random(logits, random_words(64), top_k=2)
    assert sorted(set(tokens.tolist())) == [0, 1]


# ─────────────────────────────────────────────────────────────────────────────── strides and shapes


def test_rows_apart_transposed_and_none_draw_as_their_copies():
    wide = torch.randn(12, 100, generator=torch.Generator().manual_seed(3))
    random = random_words(12)
    for logits in (wide[:, :37], wide[:, ::2], wide.t()[:12, :7], wide[0].expand(12, 100)):
        expected = sample_with_random(logits.contiguous(), random[: len(logits)])
        assert sample_with_random(logits, random[: len(logits)]).equal(expected)
    nothing = sample_with_random(torch.empty(0, 5), random[:0])
    assert nothing.shape == (0,)
    assert nothing.dtype == torch.int64


def test_any_number_of_threads_draws_the_same_tokens():
    logits = torch.randn(67, 1003, generator=torch.Generator().manual_seed(2))
    random, before = random_words(67), torch.get_num_threads()
    expected = specified(logits, random, temperature=0.7, top_k=40, top_p=0.9)
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            assert (
                sample_with_random(logits, random, temperature=0.7, top_k=40, top_p=0.9).tolist()
                == expected
            )
    finally:
        torch.set_num_threads(before)


TOKENS_OF_AN_INSTRUCTION_SET = """
import json
from nanochat import native
null = native.ffi.NULL  # a call without rows fails at once where the set does not run
native.check(native.cpu().nck_scale_rows(null, 0, 1, 1, 0, null, 0, null, 1, 1), native.cpu())
import torch
from nanochat.ops import sample
generator = torch.Generator().manual_seed(9)
found = []
for vocab in (65, 3001):
    logits = torch.randn(5, vocab, generator=generator).round(decimals=1)
    for top_k, top_p in ((0, 1.0), (20, 1.0), (20, 0.8), (0, 0.8)):
        state = torch.tensor([1, 2, vocab])
        found.append(sample(logits, state, top_k=top_k, top_p=top_p).tolist())
print(json.dumps(found))
"""


def tokens_of(instruction_set: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", TOKENS_OF_AN_INSTRUCTION_SET], text=True, capture_output=True,
        env={**os.environ, "NCLAB_SIMD": instruction_set}, timeout=300, check=False,
        cwd=folder,  # so that the installed nanochat is imported
    )  # fmt: skip
    if "NCLAB_SIMD must be" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_instruction_set_draws_the_same_tokens(tmp_path):
    portable = tokens_of("portable", tmp_path)
    for better in ("avx2", "avx512", "avx512bf16"):
        # None: this processor does not run it.
        assert tokens_of(better, tmp_path) in (None, portable)


# ──────────────────────────────────────────────────────────────────────────────────── the state


@given(
    st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 100), st.integers(0, 2**62),
    st.one_of(st.none(), st.lists(st.integers(0, 2**63 - 1), min_size=3, max_size=3)),
)  # fmt: skip
def test_a_state_gives_each_row_the_integer_that_philox_gives_its_item(seed, first, index, items):
    logits = torch.zeros(3, 4096)  # the twelve high bits of a word are its token
    tokens = sample(
        logits, torch.tensor([seed, first, index]),
        items=None if items is None else torch.tensor(items),
    )  # fmt: skip
    chosen = [first + row for row in range(3)] if items is None else items
    words = [int(philox.random_u64(seed, Stream.SAMPLING, item, 1, index)[0]) for item in chosen]
    assert tokens.tolist() == [word >> 52 for word in words]


@pytest.mark.parametrize("items", [None, torch.tensor([5, 1, 5])])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_draws_the_same_tokens(dtype, items):
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(4)).to(dtype)
    state, random = torch.tensor([7, 11, 3]), random_words(3)
    options: dict[str, Any] = {"temperature": 0.6, "top_k": 9, "top_p": 0.8}
    native = sample(logits, state, items=items, **options)
    assert sample(logits, state, items=items, use_native=False, **options).equal(native)
    given_words = sample_with_random(logits, random, **options)
    assert sample_with_random(logits, random, use_native=False, **options).equal(given_words)
    assert sample_with_random(logits, random.view(torch.int64), **options).equal(given_words)


def test_tokens_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    counts = torch.bincount(sample(logits.repeat(20_000, 1), torch.tensor([3, 0, 0])), minlength=5)
    expected = torch.softmax(logits, 0) * 20_000
    assert float(((counts - expected) ** 2 / expected).sum()) < 23.51  # chi-square, 4, at 1e-4


# ─────────────────────────────────────────────────────────────────────────────────── refusals


@pytest.mark.parametrize("use_native", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_without_a_token_is_named_as_in_the_specification(dtype, use_native):
    state = torch.tensor([1, 0, 0])
    for bad, message in ((math.nan, "hold nan"), (-INF, "are all -inf")):
        logits = torch.zeros(40, 70, dtype=dtype)
        logits[31] = -INF
        logits[31, 69] = bad
        with pytest.raises(LogitsError, match=rf"^logits of row 31 {message}$"):
            sample(logits, state, use_native=use_native)


@pytest.mark.parametrize("use_native", [True, False])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.5}, r"^temperature must be finite and >= 0, got -0\.5$"),
        ({"temperature": math.nan}, r"^temperature must be finite and >= 0, got nan$"),
        ({"temperature": INF}, r"^temperature must be finite and >= 0, got inf$"),
        ({"top_k": -1}, r"^top_k must be at least 0, got -1$"),
        ({"top_p": 0.0}, r"^top_p must be above 0 and at most 1, got 0$"),
        ({"top_p": 1.5}, r"^top_p must be above 0 and at most 1, got 1\.5$"),
    ],
)
def test_options_out_of_range_are_refused(options, message, use_native):
    with pytest.raises(KernelError, match=message):
        sample_with_random(torch.zeros(1, 2), random_words(1), use_native=use_native, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.zeros(3, dtype=torch.int64)), r"^logits must be \(rows, vocab\)"),
        ((torch.zeros(1, 3, dtype=torch.int32), torch.tensor([1, 0, 0])), r"^logits must be one of"),
        ((torch.zeros(1, 3), torch.tensor([1, 0])), r"^state must be \(3,\) int64, got \(2,\)"),
        ((torch.zeros(1, 3), torch.tensor([1.0, 0, 0])), r"^state must be \(3,\) int64, got \(3,\) "),
        ((torch.zeros(1, 3), torch.arange(6)[::2]), r"^state must be contiguous, got stride 2$"),
        ((torch.zeros(1, 3), torch.tensor([2**32, 0, 0])), r"^seed must be in \[0, 2\^32\), got "),
        ((torch.zeros(1, 3), torch.tensor([1, 0, -1])), r"^index must be at least 0, got -1$"),
        ((torch.zeros(1, 2**20 + 1), torch.tensor([1, 0, 0])),
         r"^vocabulary must be at most 1048576 tokens, got 1048577$"),
    ],
)  # fmt: skip
def test_tensors_that_no_draw_can_have_are_refused(arguments, message):
    with pytest.raises(KernelError, match=message):
        sample(*arguments)


def test_marked_rows_are_refused_on_the_host():
    refuse_rows_without_token(torch.tensor([3, 0]))
    with pytest.raises(LogitsError, match=r"^logits of row 1 hold nan$"):
        refuse_rows_without_token(torch.tensor([3, -1, -2]))
    with pytest.raises(LogitsError, match=r"^logits of row 0 are all -inf$"):
        refuse_rows_without_token(torch.tensor([-2, -1]))


# ──────────────────────────────────────────────────────────────────────────────────── as torch op


def test_the_ops_keep_to_their_schemas():
    logits, state = torch.randn(3, 20), torch.tensor([1, 2, 3])
    for items in (None, torch.arange(3)):
        torch.library.opcheck(torch.ops.nck.sample.default, (logits, state, items, 0.7, 5, 0.9))
    torch.library.opcheck(
        torch.ops.nck.sample_with_random.default, (logits, torch.arange(3), 0.7, 5, 0.9)
    )


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_decode_step_is_one_graph_that_advances_the_state(backend):
    def step(logits: Tensor, state: Tensor) -> Tensor:
        tokens = sample(logits * 2, state, temperature=0.9, top_k=5)
        state[2] += 1
        return tokens + 1

    torch.compiler.reset()
    logits = torch.randn(4, 33, generator=torch.Generator().manual_seed(6))
    eager, compiled = (torch.tensor([1, 2, 0]) for _ in range(2))
    fast = torch.compile(step, fullgraph=True, backend=backend)
    for _ in range(3):
        assert fast(logits, compiled).equal(step(logits, eager))
    assert compiled.tolist() == eager.tolist() == [1, 2, 3]


def test_logits_that_require_a_gradient_draw_tokens_that_have_none():
    logits = torch.randn(2, 9).requires_grad_()
    tokens = sample(logits, torch.tensor([1, 0, 0]))
    assert not tokens.requires_grad
    assert tokens.equal(sample(logits.detach(), torch.tensor([1, 0, 0])))
