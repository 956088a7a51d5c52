"""What network and counts each said, against the decoder's logits and the counts themselves."""

from __future__ import annotations

import numpy as np
import pytest
from oracles.texts import documents_of

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, evaluation_batches
from nanochat.engines import build_engine, resolve_hardware
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import probabilities
from nanochat.sampling.explain import LIKELIEST, Explainer
from nanochat.sampling.mixed import NetworkAlone, mixed_with

VOCAB, BLOCK, ORDER = 7, 12, 4
SIZE = {
    "model_kind": "mini-gpt", "n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": BLOCK,
    "threads": 1, "init_std": 0.4,
}  # fmt: skip
MODELS = {
    "scalar": ({"mode": "scalar", "dtype": "float64"}, 1e-12),
    "scalar float32": ({"mode": "scalar", "dtype": "float32"}, 1e-6),
    "tensor": ({"mode": "tensor", "dtype": "float32"}, 1e-6),
    "tensor, plain": (
        {"mode": "tensor", "dtype": "float64", "loss": "torch", "compile": "off"}, 1e-12,
    ),
}  # fmt: skip
DRAWN = ([3, 1], [1, 1], [4, None], [2, None])


def engine_of(name: str, order: int = ORDER):
    config = TrainConfig(**SIZE, **MODELS[name][0], ngram_order=order)
    return build_engine(resolve_hardware(config), VOCAB)


def texts(count: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCAB, random.integers(3, BLOCK)).tolist() for _ in range(count)]


@pytest.fixture(scope="module")
def counts() -> KneserNey:
    return KneserNey.count(documents_of(texts(40, seed=3)), ORDER, VOCAB)


def softmax(logits):
    exps = np.exp(logits.astype(np.float64) - logits.max())
    return exps / exps.sum()


def explained(engine, prompts):
    """The explanations of DRAWN, as generate() asks for them."""
    explainer = Explainer(engine, len(prompts))
    decoder = explainer.open_decoder(prompts)
    for step in DRAWN:
        explainer.keep(step)
        decoder.advance([token or 0 for token in step])
    return explainer.rows


@pytest.mark.parametrize("name", MODELS)
def test_network_and_counts_recombine_to_the_probability_of_the_mixture(name, counts):
    engine, tolerance = engine_of(name), MODELS[name][1]
    prompts = [[0, 2, 3], [0, 5, 5]]
    rows = explained(mixed_with(engine, counts), prompts)
    assert [len(row) for row in rows] == [4, 2]
    decoder, network = (
        mixed_with(engine, counts).open_decoder(prompts),
        engine.open_decoder(prompts),
    )
    read = [list(prompt) for prompt in prompts]
    for position, step in enumerate(DRAWN):
        for row, token in enumerate(step):
            if token is None:
                continue
            each = rows[row][position]
            mixture = np.exp(decoder.logits[row])
            recombined = (1 - each.counts_share) * each.network + each.counts_share * each.counts
            assert each.token == token
            assert recombined == pytest.approx(mixture[token], rel=tolerance)
            assert each.probability == pytest.approx(mixture[token], rel=tolerance)
            # The parts alone: the logits without the last, the last one's share, the counts.
            assert each.network == pytest.approx(
                softmax(network.logits[row][:-1])[token], rel=1e-12
            )
            shares = softmax(network.logits[row] + np.log(9 * VOCAB) * np.eye(VOCAB + 1)[-1])
            assert each.counts_share == pytest.approx(shares[-1], rel=1e-12)
            assert each.counts == counts.distribution(read[row])[token]
            assert each.matched_order == counts.matched(read[row]) + 1
            ids, values = zip(*each.likeliest, strict=True)
            assert list(ids) == np.argsort(-mixture, kind="stable")[:LIKELIEST].tolist()
            np.testing.assert_allclose(values, mixture[list(ids)], rtol=tolerance)
        for one in (decoder, network):
            one.advance([token or 0 for token in step])
        for text, token in zip(read, step, strict=True):
            text.append(token or 0)


@pytest.mark.parametrize("name", ["scalar", "tensor"])
def test_without_counts_the_network_alone_is_explained(name):
    engine = engine_of(name, order=0)
    rows = explained(engine, [[0, 2, 3], [0, 5, 5]])
    first = rows[0][0]
    expected = softmax(engine.open_decoder([[0, 2, 3], [0, 5, 5]]).logits[0])[3]
    assert first.probability == first.network == pytest.approx(expected, rel=1e-12)
    assert (first.counts, first.counts_share, first.matched_order) == (None, None, None)


# --------------------------------------------------------------------------------- the network alone


@pytest.mark.parametrize("name", MODELS)
def test_decoder_and_batches_of_the_network_alone_score_a_text_alike(name, counts):
    engine, tolerance = engine_of(name), MODELS[name][1]
    alone = NetworkAlone(engine)
    documents = documents_of(texts(5, seed=9))
    nats = []
    for batch in evaluation_batches(
        documents, batch_size=2, block_size=BLOCK + 1, by_counts=probabilities(counts, documents)
    ):
        losses = alone.token_losses(batch)
        assert losses.shape == batch.targets.shape
        assert (losses[batch.targets == IGNORE] == 0).all()
        nats += losses[batch.targets != IGNORE].tolist()
    expected = []
    for text in texts(5, seed=9):
        decoder, mixture = alone.open_decoder([[0]]), engine.open_decoder([[0]])
        for token in [*text, 0]:
            logits = decoder.logits[0]
            assert logits.shape == (VOCAB,)
            assert logits.tolist() == mixture.logits[0, :-1].tolist()
            expected.append(-np.log(softmax(logits)[token]))
            if token:
                decoder.advance([token])
                mixture.advance([token])
    np.testing.assert_allclose(sorted(nats), sorted(expected), rtol=30 * tolerance)


def test_the_tape_scores_the_network_alone_as_the_program_does(counts):
    config = TrainConfig(
        **SIZE, mode="scalar", dtype="float32", numerics="exact", ngram_order=ORDER
    )
    tape = build_engine(resolve_hardware(config), VOCAB)
    assert tape.backend == "cpp-tape"
    documents = documents_of(texts(3, seed=2))
    (batch,) = evaluation_batches(
        documents, batch_size=3, block_size=BLOCK + 1, by_counts=probabilities(counts, documents)
    )
    np.testing.assert_allclose(
        tape.network_losses(batch), engine_of("scalar").network_losses(batch), rtol=1e-5
    )
