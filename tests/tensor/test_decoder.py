"""Decoding against the full forward pass and the NumPy oracle, within and beyond the context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nonempty import nonempty
from numpy.typing import NDArray
from oracles.numpy_gpt import NumpyGPT
from tensor.batch_makers import VOCAB, make_engine, small_config, windows

from nanochat.model.parameters import Spec, parameter_specs
from nanochat.sampling import sampling
from nanochat.tensor import decoder as decoder_module
from nanochat.tensor import native as fast_paths
from nanochat.tensor.engine import TensorEngine
from nanochat.tensor.model import MiniGPT
from nanochat.tensor.native import decodes, trains

MODELS: list[dict[str, Any]] = [
    {"model_kind": "bigram"},
    {"positions": "learned", "qk_norm": False, "activation": "relu"},
    {"positions": "learned", "logit_softcap": 1.5, "tie_lm_head": True},
    {"positions": "rope"},
    {"positions": "rope", "qk_norm": False, "input_rmsnorm": False, "logit_softcap": 1.5},
    {"n_layer": 0, "positions": "learned"},
    {"positions": "rope", "prev_token_tables": 3},
    {"positions": "rope", "prev_token_tables": 1, "hash_embed_rows": 50},
    {"positions": "learned", "hash_embed_rows": 9, "hash_embed_longest": 6, "tie_lm_head": True},
    {"positions": "learned", "prev_token_tables": 1, "tie_lm_head": True},
    {"model_kind": "bigram", "output_rmsnorm": True},
    {"positions": "rope", "output_rmsnorm": True},
    {"positions": "learned", "output_rmsnorm": True, "tie_lm_head": True, "logit_softcap": 1.5},
]


@pytest.fixture(autouse=True, params=["native", "plain"])
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with nck_decode and with the plain decoder."""
    if request.param == "plain":
        use_plain(monkeypatch)


def use_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "decodes", lambda *_: False)


def tokens(rows: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(0, VOCAB, (rows, count))


def full_logits(engine: TensorEngine, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (rows, length, vocab) from the forward pass of training."""
    batch = windows(*ids.shape)
    batch.inputs[:] = ids
    with torch.no_grad():
        logits = engine.model.hidden(engine._inputs(batch)) @ engine.model.head.T
    cap = engine.config.logit_softcap
    logits = cap * torch.tanh(logits / cap) if cap else logits
    result: NDArray[np.float64] = logits.view(*ids.shape, VOCAB).numpy()
    return result


@pytest.mark.parametrize("options", MODELS, ids=str)
@pytest.mark.parametrize("prompt", [1, 3, 8])
def test_decoding_equals_the_full_forward_pass(options: dict[str, Any], prompt: int) -> None:
    engine = make_engine(small_config(**options))
    ids = tokens(3, 8)
    expected = full_logits(engine, ids)
    decoder = engine.open_decoder(ids[:, :prompt].tolist())
    np.testing.assert_allclose(decoder.logits, expected[:, prompt - 1], rtol=1e-12, atol=1e-13)
    for column in range(prompt, 8):
        decoder.advance(ids[:, column].tolist())
        np.testing.assert_allclose(decoder.logits, expected[:, column], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("options", [MODELS[1], MODELS[2], MODELS[5], MODELS[-1]], ids=str)
@pytest.mark.parametrize("prompt", [2, 11])
def test_learned_positions_recompute_the_last_block(options: dict[str, Any], prompt: int) -> None:
    engine = make_engine(small_config(**options))
    ids = tokens(2, 20)
    decoder = engine.open_decoder(ids[:, :prompt].tolist())
    for column in range(prompt, 20):
        decoder.advance(ids[:, column].tolist())
        window = ids[:, max(0, column - 7) : column + 1]
        expected = full_logits(engine, window)[:, -1]
        np.testing.assert_allclose(decoder.logits, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n_layer", [1, 2])
@pytest.mark.parametrize("prompt", [2, 11])
def test_rope_rolls_over_the_last_block(n_layer: int, prompt: int) -> None:
    config = small_config(n_layer=n_layer)
    engine = make_engine(config)
    ids = tokens(2, 30)
    decoder = engine.open_decoder(ids[:, :prompt].tolist())
    oracles = [NumpyGPT(config, engine.state_dict().weights, window=8) for _ in ids]
    found, wanted = [], []
    for column in range(30):
        rows = zip(oracles, ids[:, column].tolist(), strict=True)
        expected = [oracle.logits(token, column) for oracle, token in rows]
        if column >= prompt:
            decoder.advance(ids[:, column].tolist())
        if column >= prompt - 1:
            found.append(np.array(decoder.logits))
            wanted.append(expected)
    for logits, expected in nonempty(zip(found, wanted, strict=True)):
        np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-13)


def test_one_layer_of_rope_sees_the_last_block_and_nothing_else() -> None:
    engine = make_engine(small_config(n_layer=1))
    ids = tokens(1, 20)
    other = ids.copy()
    other[:, :12] = (other[:, :12] + 1) % VOCAB
    first, second = (engine.open_decoder(t.tolist()).logits for t in (ids, other))
    np.testing.assert_array_equal(first, second)
    # Only differences of angles matter, so a window that is read from position 0 agrees.
    expected = full_logits(engine, ids[:, -8:])[:, -1]
    np.testing.assert_allclose(first, expected, rtol=1e-11, atol=1e-12)


def test_a_bigram_forgets_all_but_the_last_token() -> None:
    engine = make_engine(small_config(model_kind="bigram"))
    decoder = engine.open_decoder(tokens(1, 12).tolist())
    decoder.advance([3])
    np.testing.assert_array_equal(decoder.logits, engine.open_decoder([[3]]).logits)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float64", np.float64), ("float32", np.float32), ("bfloat16", np.float32)],
)
def test_logits_are_an_array_of_at_least_float32(dtype: str, expected: type) -> None:
    decoder = make_engine(small_config(), dtype=dtype).open_decoder([[0], [1]])
    decoder.advance([1, 2])
    assert decoder.logits.dtype == expected
    assert decoder.logits.shape == (2, VOCAB)


def test_logits_that_were_read_do_not_change() -> None:
    decoder = make_engine(small_config()).open_decoder([[0]])
    before = decoder.logits
    kept = before.copy()
    decoder.advance([1])
    np.testing.assert_array_equal(before, kept)


def test_decoding_leaves_the_number_of_threads_as_it_was() -> None:
    decoder = make_engine(small_config()).open_decoder([[0]])
    torch.set_num_threads(2)
    decoder.advance([1])
    assert torch.get_num_threads() == 2


class WithoutDraw:
    """An engine whose decoder has logits but no sampling methods."""

    def __init__(self, engine: TensorEngine) -> None:
        self.engine = engine

    def open_decoder(self, prompts: Any) -> Any:
        decoder = self.engine.open_decoder(prompts)

        class Plain:
            logits = property(lambda _: decoder.logits)

            def advance(self, ids: Any) -> None:
                decoder.advance(ids)

        return Plain()


@pytest.mark.parametrize("bias", [None, sampling.PhraseBias([[4, 5], [4, 2, 1]], 3.0)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_native_sampling_draws_the_tokens_of_the_specification(
    monkeypatch: pytest.MonkeyPatch, dtype: str, bias: sampling.PhraseBias | None
) -> None:
    engine = make_engine(small_config(), dtype=dtype)
    wanted = sampling.SamplingSettings(
        temperature=0.8, top_k=5, top_p=0.95, max_new_tokens=24, seed=3
    )
    theirs = list(sampling.sample_tokens(WithoutDraw(engine), [0, 4], wanted, rows=9, bias=bias))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the specification drew the tokens")

    monkeypatch.setattr(sampling, "draw", refuse)
    assert list(sampling.sample_tokens(engine, [0, 4], wanted, rows=9, bias=bias)) == theirs
    assert len(theirs) > 1
    assert any(None in step for step in theirs)  # some rows ended before others


def error(engine: TensorEngine, ids: NDArray[np.int64], exact: NDArray[np.float64]) -> float:
    """Return the root mean square of logits − exact over a text, one token per step."""
    decoder, squares = engine.open_decoder([[int(ids[0])]]), []
    for position, token in enumerate(ids.tolist()):
        if position:
            decoder.advance([token])
        squares.append(np.square(decoder.logits[0] - exact[position]).mean())
    return float(np.sqrt(np.mean(squares)))


@pytest.mark.parametrize("_path", ["native"], indirect=True)  # it opens both decoders
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "options", [{}, {"qk_norm": False, "positions": "learned"}, {"output_rmsnorm": True}], ids=str
)
def test_nck_decode_is_at_least_as_accurate_as_the_plain_decoder(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], dtype: str
) -> None:
    shape = {"n_embd": 128, "n_head": 4, "n_layer": 4, "block_size": 32, "init_std": 0.08}
    config = small_config(**{**shape, **options})
    engine, ids = make_engine(config, dtype=dtype), tokens(1, 32)[0]
    assert isinstance(engine.model, MiniGPT)
    assert decodes(config, "cpu", engine.model.dtype)
    model = NumpyGPT(config, engine.state_dict().weights, config.block_size)
    exact = np.array([model.logits(token, at) for at, token in enumerate(ids.tolist())])
    ours = error(engine, ids, exact)
    use_plain(monkeypatch)
    theirs = error(engine, ids, exact)
    assert ours <= theirs + 2.0**-24  # one rounding of a logit


@pytest.mark.parametrize(
    ("changes", "device", "expected"),
    [
        *((options, "cpu", options.get("model_kind") != "bigram") for options in MODELS),
        ({}, "cuda", False),
        ({}, "mps", False),
    ],
)
def test_nck_decode_serves_every_mini_gpt_on_the_cpu(
    changes: dict[str, Any], device: str, expected: bool
) -> None:
    assert decodes(small_config(**changes), device, torch.float32) == expected


def test_a_parameter_that_the_kernels_do_not_know_runs_the_plain_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small_config()
    more = Spec(name="layer0.value_embedding", shape=(VOCAB, 8), std=0.3, group="embedding")
    known = parameter_specs(config, VOCAB)
    monkeypatch.setattr(fast_paths, "parameter_specs", lambda *_, **__: [*known, more])
    assert not decodes(config, "cpu", torch.float32)
    assert not trains(config, "cpu", torch.float32, compiled=False)
