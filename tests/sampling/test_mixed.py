"""The mixture is one model: batches, the decoder and a formula on its own give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from nonempty import nonempty
from oracles.texts import documents_of

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, evaluation_batches
from nanochat.engines import build_engine, resolve_hardware
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import probabilities
from nanochat.sampling.mixed import mixed_with
from nanochat.sampling.sampling import OpensDecoders, SamplingSettings, sample_tokens

VOCAB, BLOCK = 7, 12
SIZE = {
    "model_kind": "mini-gpt", "n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": BLOCK,
    "ngram_order": 4, "threads": 1, "init_std": 0.4,
}  # fmt: skip
MODELS = {
    "scalar": {"mode": "scalar", "dtype": "float64"},
    "scalar, learned positions": {
        "mode": "scalar", "dtype": "float64", "positions": "learned",
    },
    "tensor": {"mode": "tensor", "dtype": "float64"},
    "tensor, hashed": {
        "mode": "tensor", "dtype": "float64", "prev_token_tables": 2, "hash_embed_rows": 20,
    },
    "tensor, tied and capped": {
        "mode": "tensor", "dtype": "float64", "tie_lm_head": True, "logit_softcap": 5.0,
    },
    "torch": {"mode": "tensor", "dtype": "float64", "loss": "torch", "compile": "off"},
}  # fmt: skip


def texts(count: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCAB, random.integers(3, BLOCK)).tolist() for _ in range(count)]


@pytest.fixture(params=MODELS)
def engine(request):
    return build_engine(resolve_hardware(TrainConfig(**SIZE, **MODELS[request.param])), VOCAB)


@pytest.fixture(scope="module")
def counts() -> KneserNey:
    return KneserNey.count(documents_of(texts(40, seed=3)), 4, VOCAB)


def test_decoder_token_by_token_and_batches_score_a_text_alike(engine, counts) -> None:
    for text in nonempty(texts(4, seed=9)):
        documents = documents_of([text])
        (batch,) = evaluation_batches(
            documents, batch_size=1, block_size=BLOCK + 1,
            by_counts=probabilities(counts, documents),
        )  # fmt: skip
        nats = engine.token_losses(batch)[batch.targets != IGNORE]
        decoder = mixed_with(engine, counts).open_decoder([[0]])
        for token, loss in zip([*text, 0], nats, strict=True):
            logits = decoder.logits[0]
            assert logits.shape == (VOCAB,)
            assert np.exp(logits).sum() == pytest.approx(1, abs=1e-12)
            assert -logits[token] == pytest.approx(loss, rel=1e-6)  # counts in float32
            if len(text) < BLOCK:
                decoder.advance([token])


def test_the_mixture_is_the_share_of_the_counts_and_the_rest(engine, counts) -> None:
    prompts = [[0, 2, 3, 1], [0, 5, 5, 6]]
    network = engine.open_decoder(prompts).logits.astype(np.float64)
    assert network.shape == (2, VOCAB + 1)
    network[:, -1] += np.log(9 * VOCAB)
    shares = np.exp(network) / np.exp(network).sum(axis=1, keepdims=True)
    expected = shares[:, :-1] + shares[:, -1:] * counts.distributions(prompts)
    found = mixed_with(engine, counts).open_decoder(prompts).logits
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-10)


def test_beyond_the_window_the_counts_read_the_text_itself(counts) -> None:
    config = TrainConfig(**{**SIZE, "block_size": 2}, mode="scalar")
    engine = build_engine(resolve_hardware(config), VOCAB)
    decoder = mixed_with(engine, counts).open_decoder([[0, 2]])
    text = [0, 2]
    for token in (3, 1, 4, 4, 2):
        decoder.advance([token])
        text.append(token)
        network = engine.open_decoder([text[-2:]]).logits[0].astype(np.float64)
        network[-1] += np.log(9 * VOCAB)
        shares = np.exp(network) / np.exp(network).sum()
        expected = shares[:-1] + shares[-1] * counts.distribution(text)
        np.testing.assert_allclose(np.exp(decoder.logits[0]), expected, rtol=1e-6)


class _LogitsOnly:
    """A model without a draw of its decoder's: the reference draws."""

    def __init__(self, model: OpensDecoders) -> None:
        self._model = model

    def open_decoder(self, prompts):
        decoder = self._model.open_decoder(prompts)

        class LogitsOnly:
            logits = property(lambda _: decoder.logits)
            advance = staticmethod(decoder.advance)

        return LogitsOnly()


@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 0.0}, {"temperature": 0.8, "top_k": 3}, {"top_p": 0.7}],
    ids=["plain", "greedy", "top-k", "top-p"],
)
def test_tokens_of_the_mixture_are_those_of_the_reference_draw(engine, counts, how) -> None:
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": BLOCK + 3, "seed": 5}
    mixture, settings = mixed_with(engine, counts), SamplingSettings(**{**plain, **how})
    found = list(sample_tokens(mixture, [0], settings, rows=6))
    assert found == list(sample_tokens(_LogitsOnly(mixture), [0], settings, rows=6))
    ended = [[step[row] for step in found].count(None) for row in range(6)]
    if not how:
        assert len(set(ended)) > 1  # rows end at different positions
    for row in (0, 5):  # a row does not depend on the others
        alone = list(sample_tokens(mixture, [0], settings, rows=1, first_row=row))
        drawn = [step[row] for step in found if step[row] is not None]
        assert [token for (token,) in alone] == drawn


def test_without_counts_the_network_is_drawn_from(engine) -> None:
    assert mixed_with(engine, None) is engine
