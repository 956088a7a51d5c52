"""nck_decode compared with the models in NumPy float64, one token after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native.calls import ARGUMENT, MEMORY, OK, UNWRITTEN, last_error
from native.gpt import GPT, Decoder
from native.test_guard_pages import Side, next_to_guard_page
from nonempty import nonempty
from numpy.typing import NDArray

from nanochat import native
from nanochat.sampling.draw import draw

DTYPES = ("float32", "float64", "bfloat16")
OPTIONS: list[dict[str, Any]] = [
    {},
    {"qk_norm": False, "activation": "relu", "input_rmsnorm": False},
    {"positions": "learned", "tie_lm_head": True},
    {"positions": "learned", "qk_norm": False, "logit_softcap": 8.0},
    {"n_layer": 0},
    {"n_layer": 3, "logit_softcap": 15.0},
    {"output_rmsnorm": True},
    {"output_rmsnorm": True, "n_layer": 0, "positions": "learned", "tie_lm_head": True},
    {"output_rmsnorm": True, "logit_softcap": 8.0, "hash_embed_rows": 100},
    {"prev_token_tables": 3},
    {"hash_embed_rows": 100},
    {"hash_embed_rows": 3, "hash_embed_longest": 2, "prev_token_tables": 2, "positions": "learned"},
    {"hash_embed_rows": 1000, "hash_embed_longest": 7, "prev_token_tables": 1},
    {"prev_token_tables": 11, "positions": "learned", "tie_lm_head": True},
]
# head_dim below, at and above the vector widths of every set, and not always a multiple.
SHAPES = [  # n_head, n_embd, vocab
    (1, 4, 27), (3, 12, 2), (2, 20, 65), (2, 32, 257), (3, 66, 65), (2, 128, 1), (1, 130, 33),
]  # fmt: skip


def tokens(model: GPT, rows: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, model.vocab, (rows, length))


def assert_near(found: NDArray[Any], expected: NDArray[np.float64], model: GPT) -> None:
    """Allow the roundings of a few products: activations have the accumulation dtype."""
    unit = 2.0**-53 if model.dtype == "float64" else 2.0**-24
    cap = model.config.logit_softcap
    products = cap * np.arctanh(expected / cap) if cap else expected
    np.testing.assert_allclose(found, expected, rtol=0, atol=64 * unit * abs(products).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_are_the_oracles_for_every_option(options: dict[str, Any], dtype: str) -> None:
    model = GPT(dtype, 27, **options)
    ids = tokens(model, 3, 8)
    expected = model.oracle(ids)
    decoder = Decoder(model, 3)
    assert_near(decoder.read(ids[:, :4]), expected[:, 3], model)
    for column in range(4, 8):
        assert_near(decoder.read(ids[:, column : column + 1]), expected[:, column], model)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_the_oracles_for_every_shape(shape: tuple[int, int, int], dtype: str) -> None:
    n_head, n_embd, vocab = shape
    model = GPT(dtype, vocab, n_head=n_head, n_embd=n_embd, block_size=19)
    ids = tokens(model, 2, 19)
    expected = model.oracle(ids)
    decoder = Decoder(model, 2)
    for column in range(19):
        assert_near(decoder.read(ids[:, column : column + 1]), expected[:, column], model)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [1, 5, 16, 33])
def test_the_newest_token_takes_the_place_of_the_oldest(block_size: int, dtype: str) -> None:
    model = GPT(dtype, 27, block_size=block_size)
    ids = tokens(model, 2, 2 * block_size + 3)
    expected = model.oracle(ids)
    decoder = Decoder(model, 2)
    assert_near(decoder.read(ids[:, :block_size]), expected[:, block_size - 1], model)
    for column in range(block_size, ids.shape[1]):
        assert_near(decoder.read(ids[:, column : column + 1]), expected[:, column], model)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 7, 64, 113])
def test_a_rows_bits_depend_on_no_other_row_and_no_thread(rows: int, dtype: str) -> None:
    model = GPT(dtype, 65, n_embd=36, block_size=6)
    ids = tokens(model, rows, 8)
    alone = [Decoder(model, 1) for _ in ids]
    several = {threads: Decoder(model, rows) for threads in (1, 2, 3, 4, 64)}
    for column in range(8):
        next_ids = ids[:, column : column + 1]
        expected = [d.read(i[None]) for d, i in zip(alone, next_ids, strict=True)]
        for threads, decoder in nonempty(several.items()):
            found = decoder.read(next_ids, threads)
            np.testing.assert_array_equal(found, np.concatenate(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "length"), [(1, 50), (1, 130), (5, 7), (20, 50)])
def test_a_prompt_has_the_bits_of_its_tokens_one_by_one(rows: int, length: int, dtype: str) -> None:
    model = GPT(dtype, 27, block_size=140, n_layer=2)
    ids = tokens(model, rows, length + 1)
    at_once, singly = Decoder(model, rows), Decoder(model, rows)
    for column in range(length):
        last = singly.read(ids[:, column : column + 1])
    np.testing.assert_array_equal(at_once.read(ids[:, :length], threads=2), last)
    found, expected = (each.read(ids[:, length:]) for each in (at_once, singly))
    np.testing.assert_array_equal(found, expected)


def test_a_first_of_0_forgets_the_tokens_read() -> None:
    model = GPT("float32", 27, positions="learned")
    ids = tokens(model, 2, 8)
    decoder, fresh = Decoder(model, 2), Decoder(model, 2)
    decoder.read(ids)
    decoder.count = 0
    np.testing.assert_array_equal(decoder.read(ids[:, 3:6]), fresh.read(ids[:, 3:6]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_in_a_weight_reaches_the_logits(dtype: str) -> None:
    model = GPT(dtype, 5, activation="relu")
    bad = 0x7FC5 if dtype == "bfloat16" else np.nan
    model.stored["layer0.mlp_fc1"][3, 2] = bad
    assert np.isnan(Decoder(model, 2).read(np.array([[1], [2]]))).all()


def test_a_change_of_the_matrices_changes_no_open_decoder() -> None:
    model = GPT("float32", 27)
    decoder, other = Decoder(model, 1), Decoder(model, 1)
    for name in ("wqkv0", "wo0", "fc10", "fc21", "lm_head"):
        decoder.arrays[name][:] = 0
    ids = tokens(model, 1, 4)
    np.testing.assert_array_equal(decoder.read(ids), other.read(ids))


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_a_decoder_stays_within_its_arrays(side: Side, dtype: str, positions: str) -> None:
    for n_head, n_embd, vocab in [(1, 2, 1), *SHAPES]:
        model = GPT(
            dtype,
            vocab,
            n_head=n_head,
            n_embd=n_embd,
            positions=positions,
            place=next_to_guard_page(side),
        )
        decoder = Decoder(model, 3)
        ids = tokens(model, 3, 8)
        decoder.read(ids[:, :5])
        assert np.isfinite(decoder.read(ids[:, 5:6])).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": 0}, "vocab must be in [1, 1073741824], got 0"),
        ({"n_embd": 0}, "n_embd must be in [1, 65536], got 0"),
        ({"n_layer": -1}, "n_layer must be in [0, 4096], got -1"),
        ({"n_head": 0}, "n_head must be in [1, 16], got 0"),
        ({"n_head": 3}, "n_head must divide n_embd 16, got 3"),
        ({"n_head": 16}, "n_embd / n_head must be even under a rope_base, got 1"),
        ({"block_size": 0}, "block_size must be in [1, 16777216], got 0"),
        ({"prev_token_tables": 1025}, "prev_token_tables must be in [0, 1024], got 1025"),
        ({"hash_embed_rows": -1}, "hash_embed_rows must be in [0, 2147483648], got -1"),
        (
            {"hash_embed_rows": 1, "hash_embed_longest": 1},
            "hash_embed_longest must be in [2, 1024], got 1",
        ),
        ({"dtype": 3}, "dtype must be NCK_FLOAT32, NCK_FLOAT64 or NCK_BFLOAT16, got 3"),
        ({"dtype": -1}, "dtype must be NCK_FLOAT32, NCK_FLOAT64 or NCK_BFLOAT16, got -1"),
        ({"activation": 2}, "activation must be NCK_RELU or NCK_RELU2, got 2"),
        ({"input_norm": 2}, "input_norm must be in [0, 1], got 2"),
        ({"qk_norm": -1}, "qk_norm must be in [0, 1], got -1"),
        ({"output_norm": 3}, "output_norm must be in [0, 1], got 3"),
        ({"eps": -1.0}, "eps must be finite and at least 0, got -1"),
        ({"eps": np.nan}, "eps must be finite and at least 0, got nan"),
        ({"rope_base": 0.5}, "rope_base must be 0 or finite and at least 1, got 0.5"),
        ({"rope_base": np.inf}, "rope_base must be 0 or finite and at least 1, got inf"),
        ({"softcap": -1.0}, "softcap must be 0 or in [1e-30, 1e30], got -1"),
        ({"wte": native.ffi.NULL}, "wte must not be NULL"),
        ({"lm_head": native.ffi.NULL}, "lm_head must not be NULL"),
        ({"layers": native.ffi.NULL}, "layers must not be NULL"),
    ],
)
def test_a_wrong_model_is_named_and_nothing_is_opened(
    changes: dict[str, Any], message: str
) -> None:
    described, _keep = GPT("float32", 27).described(**changes)
    handle = native.ffi.new("nck_decoder **")
    assert native.cpu().nck_open_decoder(described, 1, handle) == ARGUMENT
    assert last_error() == message
    assert handle[0] == native.ffi.NULL


@pytest.mark.parametrize("name", ["wqkv", "wo", "fc1", "fc2"])
def test_a_missing_matrix_is_named(name: str) -> None:
    described, keep = GPT("float32", 27).described()
    setattr(keep["layers"][1], name, native.ffi.NULL)
    handle = native.ffi.new("nck_decoder **")
    assert native.cpu().nck_open_decoder(described, 1, handle) == ARGUMENT
    assert last_error() == f"{name} must not be NULL"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (0, "rows must be in [1, 1048576], got 0"),
        (2**20 + 1, f"rows must be in [1, 1048576], got {2**20 + 1}"),
    ],
)
def test_wrong_rows_are_named(rows: int, message: str) -> None:
    described, _keep = GPT("float32", 27).described()
    handle = native.ffi.new("nck_decoder **")
    assert native.cpu().nck_open_decoder(described, rows, handle) == ARGUMENT
    assert last_error() == message


READ = "first must be 0 or the 2 tokens that were read, got"


@pytest.mark.parametrize(
    ("positions", "length", "first", "threads", "message"),
    [
        ("rope", 9, 0, 1, "length must be in [1, 8], got 9"),
        ("rope", 1, 1, 1, f"{READ} 1"),
        ("rope", 1, 3, 1, f"{READ} 3"),
        ("rope", 1, -1, 1, f"{READ} -1"),
        ("rope", 7, 2, 1, "first + length must be at most block_size 8, got 9"),
        ("learned", 7, 2, 1, "first + length must be at most block_size 8, got 9"),
        ("rope", 1, 2, 0, "threads must be at least 1, got 0"),
    ],
)
def test_a_wrong_step_is_named_and_nothing_is_written(
    positions: str, length: int, first: int, threads: int, message: str
) -> None:
    decoder = Decoder(GPT("float32", 27, positions=positions), 2)
    decoder.read(np.zeros((2, 2), np.int64))
    status, logits = decoder.call(np.zeros((2, length), np.int64), first, threads)
    assert status == ARGUMENT
    assert last_error() == message
    assert (logits == UNWRITTEN).all()


def test_learned_positions_end_with_the_block() -> None:
    decoder = Decoder(GPT("float32", 27, positions="learned"), 1)
    decoder.read(np.zeros((1, 8), np.int64))
    status, _ = decoder.call(np.zeros((1, 1), np.int64), 8)
    assert status == ARGUMENT
    assert last_error() == "first + length must be at most block_size 8, got 9"


@pytest.mark.parametrize("token", [-1, 27, 2**62])
def test_an_invalid_token_is_reported_with_its_row(token: int) -> None:
    decoder = Decoder(GPT("float32", 27), 3)
    ids = np.zeros((3, 2), np.int64)
    ids[1, 1] = token
    status, logits = decoder.call(ids, 0)
    assert status == ARGUMENT
    assert last_error() == f"token 1 of row 1 must be in [0, 27), got {token}"
    assert (logits == UNWRITTEN).all()
    assert decoder.call(np.zeros((3, 2), np.int64), 0)[0] == OK


@pytest.mark.parametrize("argument", ["decoder", "tokens", "logits"])
def test_a_step_without_a_pointer_is_refused(argument: str) -> None:
    decoder = Decoder(GPT("float32", 27), 1)
    tokens_, logits = native.ffi.new("int64_t[1]"), native.ffi.new("float[27]")
    arguments = {"decoder": decoder.handle, "tokens": tokens_, "length": 1, "first": 0,
                 "logits": logits, "threads": 1, argument: native.ffi.NULL}  # fmt: skip
    assert native.cpu().nck_decode(*arguments.values()) == ARGUMENT
    assert last_error() == f"{argument} must not be NULL"


def test_caches_beyond_all_memory_are_a_status() -> None:
    described, _keep = GPT("float32", 27).described(block_size=2**24)
    handle = native.ffi.new("nck_decoder **")
    assert native.cpu().nck_open_decoder(described, 2**20, handle) == MEMORY
    assert last_error() == "no memory for the working space of a kernel"


# ------------------------------------------------------------------------------- rows on their own


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_that_begin_and_end_apart_have_the_bits_of_a_decoder_of_one_row(
    options: dict[str, Any], dtype: str
) -> None:
    """Rows of any position read together; one that ends gives its place to a new text."""
    model = GPT(dtype, 27, **options)
    random = np.random.default_rng(2)
    together, alone = Decoder(model, 5), {row: Decoder(model, 1) for row in range(5)}
    checked = 0
    for _ in range(40):
        rows = np.flatnonzero(random.random(5) < 0.6)
        for row in rows:
            learned_is_full = alone[row].count == 8 and options.get("positions") == "learned"
            if learned_is_full or random.random() < 0.1:
                alone[row].count = 0
        room = min([8 - alone[row].count for row in rows if alone[row].count < 8], default=1)
        rolls = any(alone[row].count >= 8 for row in rows)
        length = 1 if rolls else int(random.integers(1, room + 1))
        if not len(rows):
            continue
        ids = random.integers(0, model.vocab, (len(rows), length))
        firsts = [alone[row].count for row in rows]
        threads = int(random.integers(1, 4))
        goes_on = all(together.counts[row] == alone[row].count for row in rows)
        status, logits = together.call_rows(rows, ids, None if goes_on else firsts, threads)
        assert status == OK, last_error()
        for row, tokens_of_row in zip(rows, ids, strict=True):
            np.testing.assert_array_equal(logits[[row]], alone[row].read(tokens_of_row[None]))
            checked += 1
        others = np.setdiff1d(np.arange(5), rows)
        assert (logits[others] == UNWRITTEN).all()
    assert checked > 80


@pytest.mark.parametrize(
    ("rows", "length", "firsts", "message"),
    [
        ([], 1, [], "count must be in [1, 3], got 0"),
        ([0, 1, 2, 2], 1, [0, 0, 0, 0], "count must be in [1, 3], got 4"),
        ([3], 1, [0], "rows must be in [0, 2], got 3"),
        ([-1], 1, [0], "rows must be in [0, 2], got -1"),
        ([0, 2, 2], 1, [2, 0, 0], "rows must ascend, got 2 after 2"),
        ([1, 0], 1, [0, 2], "rows must ascend, got 0 after 1"),
        ([0, 1], 1, [2, 2], "first must be 0 or the 0 tokens that were read, got 2"),
        ([0, 1], 1, [1, 0], f"{READ} 1"),
        ([0], 7, [2], "first + length must be at most block_size 8, got 9"),
        ([1], 0, [0], "length must be in [1, 8], got 0"),
    ],
)
def test_a_wrong_step_of_rows_is_named_and_nothing_is_written(
    rows: list[int], length: int, firsts: list[int], message: str
) -> None:
    decoder = Decoder(GPT("float32", 27), 3)
    assert decoder.call_rows([0], np.zeros((1, 2), np.int64), [0])[0] == OK
    status, logits = decoder.call_rows(rows, np.zeros((len(rows), length), np.int64), firsts)
    assert status == ARGUMENT
    assert last_error() == message
    assert (logits == UNWRITTEN).all()


def test_an_invalid_token_of_a_row_is_reported_with_the_number_of_the_row() -> None:
    decoder = Decoder(GPT("float32", 27), 3)
    status, _ = decoder.call_rows([0, 2], np.array([[1, 2], [3, 27]]), [0, 0])
    assert status == ARGUMENT
    assert last_error() == "token 1 of row 2 must be in [0, 27), got 27"


@pytest.mark.parametrize("argument", ["decoder", "rows", "tokens", "logits"])
def test_a_step_of_rows_without_a_pointer_is_refused(argument: str) -> None:
    decoder = Decoder(GPT("float32", 27), 1)
    numbers, logits = native.ffi.new("int64_t[1]"), native.ffi.new("float[27]")
    arguments = {"decoder": decoder.handle, "rows": numbers, "count": 1, "tokens": numbers,
                 "length": 1, "firsts": numbers, "logits": logits, "threads": 1,
                 argument: native.ffi.NULL}  # fmt: skip
    assert native.cpu().nck_decode_rows(*arguments.values()) == ARGUMENT
    assert last_error() == f"{argument} must not be NULL"


def test_texts_of_several_steps_are_those_of_a_call_for_each() -> None:
    """Without a mixture; those with one are in tests/serving/test_rows.py."""
    model = GPT("float32", 27, positions="rope")
    rows, steps = [0, 2, 3], 12
    random = np.random.default_rng(5).integers(0, 1 << 63, (steps, len(rows)), np.uint64)
    together, alone = Decoder(model, 4), Decoder(model, 4)
    newest = np.array([1, 2, 3])
    expected = []
    for words in random:
        status, logits = alone.call_rows(rows, newest[:, None], [0] * 3 if not expected else None)
        assert status == OK
        newest = draw(logits[rows], words, temperature=0.9, top_k=9, top_p=1.0)
        expected.append(newest.tolist())
    status, found, done = together.write_rows(rows, [1, 2, 3], random, first_end=27)
    assert (status, done) == (OK, steps)
    assert found.tolist() == expected
    last = next(i for i, step in enumerate(expected) if max(step) >= 20 or 0 in step)
    again = Decoder(model, 4)
    status, found, done = again.write_rows(rows, [1, 2, 3], random, first_end=20)
    assert (status, done) == (OK, last + 1)
    assert found[:done].tolist() == expected[:done]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *(({name: native.ffi.NULL}, f"{name} must not be NULL")
          for name in ("decoder", "rows", "newest", "logits", "random", "tokens", "done")),
        ({"steps": 0}, "steps must be in [1, 1048576], got 0"),
        ({"vocab": 0}, "vocab must be in [1, 1073741824], got 0"),
        ({"dtype": 9}, "dtype must be one of NCK_FLOAT32 … NCK_FLOAT16, got 9"),
        ({"mixture": native.ffi.new("nck_mixture *", {"contexts": native.ffi.cast("void *", 8)})},
         "contexts must be those of the mixture"),
        ({"count": 5}, "count must be in [1, 4], got 5"),
        ({"temperature": -1.0}, "temperature must be finite and >= 0, got -1"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_several_steps_are_named(changed: dict[str, Any], message: str) -> None:
    decoder = Decoder(GPT("float32", 27, positions="rope"), 4)
    random = np.zeros((2, 2), np.uint64)
    status, found, _ = decoder.write_rows([0, 2], [1, 2], random, first_end=27, **changed)
    assert status == ARGUMENT
    assert last_error() == message
    assert (found == -7).all()
