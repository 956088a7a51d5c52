"""A model that learns as it reads: scored first, in order, and as it was afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles.texts import documents_of

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, evaluation_batches, reading_batches
from nanochat.engines import build_engine, resolve_hardware
from nanochat.model.parameters import GROUPS
from nanochat.ngram.adaptive import AdaptiveCounts
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.sampling.adaptive import adaptive_mixture
from nanochat.training import adapting
from nanochat.training.adapting import LR_SHARE, RETURN_SHARE, score_adaptively
from nanochat.training.engine import StepSettings

VOCAB, BLOCK, LEAST = 7, 12, 20
BYTES = np.array([0, 1, 1, 1, 2, 1, 3])
SIZE = {
    "model_kind": "mini-gpt", "n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": BLOCK,
    "ngram_order": 4, "threads": 1, "init_std": 0.4, "lr": 0.1, "weight_decay": 0.0,
    "optimizer": "adamw",
}  # fmt: skip
MODELS = {
    "scalar": {"mode": "scalar", "dtype": "float64"},
    "scalar, exact": {"mode": "scalar", "dtype": "float32", "numerics": "exact"},
    "tensor": {"mode": "tensor", "dtype": "float64"},
    "tensor, bfloat16": {"mode": "tensor", "dtype": "bfloat16"},
    "scalar, no counts": {"mode": "scalar", "dtype": "float64", "ngram_order": 0},
    "tensor, no counts": {"mode": "tensor", "dtype": "float32", "ngram_order": 0},
}  # fmt: skip


def texts(count: int, seed: int, longest: int = BLOCK) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCAB, random.integers(0, longest)).tolist() for _ in range(count)]


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "STEP_TOKENS", LEAST)


@pytest.fixture(params=MODELS)
def engine(request):
    return build_engine(resolve_hardware(TrainConfig(**{**SIZE, **MODELS[request.param]})), VOCAB)


@pytest.fixture(scope="module")
def counted() -> KneserNey:
    return KneserNey.count(documents_of(texts(40, seed=3)), 4, VOCAB)


def score(engine, documents, counted) -> np.ndarray:
    counts = AdaptiveCounts(counted) if engine.config.ngram_order else None
    return score_adaptively(engine, BYTES, documents_of(documents), engine.config, counts)[1]


def test_each_batch_is_scored_by_the_steps_on_those_before_it(engine, counted) -> None:
    documents = documents_of(texts(9, seed=1, longest=40))
    found = score(engine, texts(9, seed=1, longest=40), counted)
    trained = engine.state_dict().weights
    counts, expected = AdaptiveCounts(counted), []
    for batch in reading_batches(documents, BLOCK, LEAST):
        is_target = batch.targets != IGNORE
        if engine.config.ngram_order:
            ones = np.ones(batch.inputs.shape, dtype=np.float32)
            shares = engine.token_shares(replace(batch, by_counts=ones))[is_target]
            before = counts.copy()
            expected.append(counts.read(batch.targets[is_target], shares))
            ones[is_target] = np.exp(-before.read(batch.targets[is_target]))
            batch = replace(batch, by_counts=ones)
        else:
            expected.append(engine.token_losses(batch)[is_target])
        engine.step([batch], StepSettings(lr=dict.fromkeys(GROUPS, LR_SHARE * 0.1)))
        state = engine.state_dict()
        weights = {
            name: (value + RETURN_SHARE * (trained[name] - value)).astype(value.dtype)
            for name, value in state.weights.items()
        }
        engine.load_state_dict(replace(state, weights=weights))
    tolerance = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 2e-2}[engine.config.dtype]
    np.testing.assert_allclose(np.concatenate(expected), found, rtol=tolerance)
    assert len(expected) > 4


def test_the_trained_weights_are_back_afterwards_and_the_score_repeats(engine, counted) -> None:
    before = engine.state_dict().weights
    first, second = (score(engine, texts(9, seed=1), counted) for _ in range(2))
    after = engine.state_dict().weights
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert first.tobytes() == second.tobytes()


def test_later_documents_change_no_score_of_earlier_batches(engine, counted) -> None:
    read = texts(8, seed=2)
    changed = [*read[:-1], [6, 6, 6, 6]]
    first, other = score(engine, read, counted), score(engine, changed, counted)
    same = sum(len(text) + 1 for text in read[:-1]) // LEAST * LEAST - LEAST
    assert same > 0
    assert first[:same].tobytes() == other[:same].tobytes()


def test_a_text_that_repeats_itself_costs_ever_less(engine, counted) -> None:
    line = [1, 3, 2, 5, 4, 4, 1, 2]
    by_line = score(engine, [line] * 60, counted).reshape(60, -1).sum(axis=1)
    assert by_line[-1] < 0.8 * by_line[0]


def test_totals_are_those_of_the_tokens(engine, counted) -> None:
    documents = documents_of(texts(6, seed=4))
    counts = AdaptiveCounts(counted) if engine.config.ngram_order else None
    totals, nats = score_adaptively(engine, BYTES, documents, engine.config, counts)
    targets = documents.stream[1:]
    assert totals.targets == len(nats) == documents.pairs
    assert totals.loss == pytest.approx(nats.mean())
    assert totals.bytes == BYTES[targets].sum()
    assert totals.bpb == pytest.approx(nats[targets > 0].sum() / np.log(2) / totals.bytes)


@pytest.mark.parametrize("name", ["scalar", "tensor"])
def test_decoder_token_by_token_and_stream_score_a_text_alike(
    name: str, counted: KneserNey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder's network is frozen, and so is the other one, without steps."""
    monkeypatch.setattr(adapting, "LR_SHARE", 0.0)
    engine = build_engine(resolve_hardware(TrainConfig(**{**SIZE, **MODELS[name]})), VOCAB)
    text = texts(1, seed=9, longest=2)[0] + [2, 3, 1, 2, 3, 1, 4, 2, 3]
    nats = score(engine, [text], counted)
    decoder = adaptive_mixture(engine, counted).open_decoder([[0]])
    for token, loss in zip([*text, 0], nats, strict=True):
        assert np.exp(decoder.logits[0]).sum() == pytest.approx(1, abs=1e-12)
        assert -decoder.logits[0][token] == pytest.approx(loss, rel=1e-9)
        decoder.advance([token])


@pytest.mark.parametrize("lengths", [[], [0], [5], [40], [3, 0, 25, 7, 11, 12, 1]])
def test_reading_batches_hold_every_pair_once_in_order(lengths: list[int]) -> None:
    documents = documents_of([list(range(1, n + 1)) for n in lengths])
    batches = list(reading_batches(documents, BLOCK, LEAST))
    for name, tokens in (("inputs", documents.stream[:-1]), ("targets", documents.stream[1:])):
        rows = [getattr(b, name)[b.targets != IGNORE] for b in batches]
        assert (np.concatenate([*rows, np.zeros(0, int)]) == tokens).all()
    for batch in batches[:-1]:
        assert batch.global_targets >= LEAST
        assert batch.inputs.shape[1] <= BLOCK


def test_reading_batches_give_each_pair_the_context_of_an_evaluation() -> None:
    documents = documents_of(texts(20, seed=5, longest=30))
    positions = {}
    for kind, batches in (
        ("reading", reading_batches(documents, BLOCK, LEAST)),
        ("evaluation", evaluation_batches(documents, batch_size=3, block_size=BLOCK)),
    ):
        positions[kind] = sorted(
            (int(p), int(x), int(y))
            for b in batches
            for p, x, y in zip(
                b.positions[b.targets != IGNORE], b.inputs[b.targets != IGNORE],
                b.targets[b.targets != IGNORE], strict=True,
            )
        )  # fmt: skip
    assert positions["reading"] == positions["evaluation"]
