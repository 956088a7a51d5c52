"""The loss of conversations, on both engines: of the targets alone, finite at any context length."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, evaluation_batches, make_batcher
from nanochat.data.conversations import Conversations, encode_conversations, marked
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.texts import Texts
from nanochat.data.tokenizer import build_tokenizer
from nanochat.engines import build_engine, resolve_hardware
from nanochat.model.parameters import GROUPS
from nanochat.ngram.baseline import count_baseline
from nanochat.ngram.mixing import cross_fitted
from nanochat.training.engine import StepSettings
from nanochat.training.loop import evaluate
from nanochat.training.scoring import score_documents

TOKENIZER = ChatTokenizer(build_tokenizer("char", ["abc d"]))
TALKS = [
    [("user", "ab"), ("assistant", "ba c"), ("user", "c"), ("assistant", "ab ab ab d")],
    [("system", "d"), ("user", "a"), ("assistant", "b")],
    [("user", "abcabcabc"), ("assistant", "")],
    [("assistant", "dad"), ("user", "cab")],
]
SETTINGS = StepSettings(lr=dict.fromkeys(GROUPS, 0.01))


def documents_of(talks):
    return encode_conversations(
        TOKENIZER, Conversations.of(Texts.of([marked(turns).decode() for turns in talks]))
    )


DOCUMENTS = documents_of(TALKS)


def engine_of(mode, block_size, **options):
    config = TrainConfig(
        mode=mode, model_kind="mini-gpt", preset="microgpt", n_head=2, n_embd=8, dtype="float64",
        block_size=block_size, init_std=0.4, threads=1, **options,
    )  # fmt: skip
    return build_engine(resolve_hardware(config), TOKENIZER.vocab_size, block_size)


MODES = {"scalar": {}, "tensor": {}, "scalar, exact": {"numerics": "exact"},
         "tensor, plain loss": {"loss": "torch"}}  # fmt: skip


@pytest.fixture(params=MODES)
def made(request):
    return lambda block_size, **options: engine_of(
        request.param.partition(",")[0], block_size, **MODES[request.param], **options
    )


@pytest.mark.parametrize("block_size", [2, 7, 16, 40])
def test_the_loss_of_a_step_is_the_mean_over_the_targets(made, block_size):
    engine = made(block_size)
    for step in range(3):
        (batch,) = make_batcher(
            "packed", DOCUMENTS, batch_size=3, block_size=block_size, seed=step
        ).step(0)
        everything = replace(batch, targets=np.where(batch.segments >= 0, 1, IGNORE))
        is_target = batch.targets != IGNORE
        everything.targets[is_target] = batch.targets[is_target]
        nats = engine.token_losses(everything)[is_target]
        masked = engine.token_losses(batch)
        np.testing.assert_array_equal(masked[~is_target], 0.0)
        np.testing.assert_allclose(masked[is_target], nats, rtol=1e-12)
        metrics = engine.step([batch], SETTINGS).read()
        assert metrics.loss == pytest.approx(nats.sum() / is_target.sum(), rel=1e-12)


@pytest.mark.parametrize("order", [0, 3])
def test_both_engines_walk_the_same_losses(order):
    losses, counts = {}, None
    if order:
        counts = cross_fitted(DOCUMENTS, order, TOKENIZER.vocab_size, seed=1)
    for mode in ("scalar", "tensor"):
        engine = engine_of(mode, 12, ngram_order=order)
        batcher = make_batcher(
            "packed", DOCUMENTS, batch_size=2, block_size=12, seed=3, by_counts=counts
        )
        losses[mode] = [engine.step(batcher.step(i), SETTINGS).read().loss for i in range(20)]
    np.testing.assert_allclose(losses["scalar"], losses["tensor"], rtol=1e-12)


def test_the_steps_of_a_block_are_those_one_by_one():
    one, other = engine_of("scalar", 12), engine_of("scalar", 12)
    batcher = make_batcher("packed", DOCUMENTS, batch_size=2, block_size=12, seed=3)
    rows = batcher.steps(0, 6)
    metrics = other.steps(rows, np.full((len(rows.targets), len(GROUPS)), 0.01))
    expected = [one.step(batcher.step(i), SETTINGS).read().loss for i in range(len(rows.targets))]
    np.testing.assert_allclose(metrics.losses, expected, rtol=1e-12)


roles = st.sampled_from(["user", "assistant", "system"])
turns = st.lists(st.tuples(roles, st.text("abc d", max_size=30)), max_size=5)
with_reply = turns.map(lambda found: [*found, ("assistant", "b")])


@settings(max_examples=20)
@given(st.lists(with_reply, min_size=1, max_size=4), st.integers(2, 64))
def test_no_loss_is_nan_at_any_context_length(talks, block_size):
    documents = documents_of(talks)
    engine = engine_of("tensor", block_size)
    batcher = make_batcher("packed", documents, batch_size=2, block_size=block_size, seed=5)
    for step in range(3):
        metrics = engine.step(batcher.step(step), SETTINGS).read()
        assert math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm)
    batches = evaluation_batches(documents, batch_size=2, block_size=block_size)
    found = evaluate(engine, batches, TOKENIZER.token_bytes, 3)
    assert found.loss is not None and math.isfinite(found.loss)


def test_a_step_without_targets_has_no_loss_and_no_gradient(made):
    engine = made(12)
    (batch,) = make_batcher("packed", DOCUMENTS, batch_size=2, block_size=12, seed=3).step(0)
    none = replace(batch, targets=np.full_like(batch.targets, IGNORE), global_targets=0)
    metrics = engine.step([none], SETTINGS).read()
    assert (metrics.loss, metrics.grad_norm) == (0.0, 0.0)


def test_bits_per_byte_count_the_bytes_of_replies_alone():
    engine = engine_of("tensor", 40)
    batches = evaluation_batches(DOCUMENTS, batch_size=2, block_size=40)
    found = evaluate(engine, batches, TOKENIZER.token_bytes, 0)
    said = [text for talk in TALKS for role, text in talk if role == "assistant"]
    nats = {True: 0.0, False: 0.0}
    for batch in batches:
        losses = engine.token_losses(batch)
        ends = batch.targets == TOKENIZER.special("end")
        nats[True] += losses[ends].sum()
        nats[False] += losses[~ends].sum()
    assert found.bpb == pytest.approx(nats[False] / math.log(2) / len("".join(said)))
    assert found.loss == pytest.approx(sum(nats.values()) / (len("".join(said)) + len(said)))


def test_the_losses_per_token_are_nan_where_nothing_is_learned():
    engine = engine_of("tensor", 12)
    totals, nats = score_documents(
        engine, TOKENIZER.token_bytes, DOCUMENTS, batch_size=3, block_size=12, per_token=True
    )
    np.testing.assert_array_equal(np.isnan(nats), ~DOCUMENTS.is_target)
    assert totals.nats == pytest.approx(np.nansum(nats))
    assert totals.targets == DOCUMENTS.targets


def test_the_counting_baseline_scores_the_same_targets():
    size, token_bytes = TOKENIZER.vocab_size, TOKENIZER.token_bytes
    train = documents_of(TALKS * 4)
    everything = replace(DOCUMENTS, is_target=None)
    masked = count_baseline(train, DOCUMENTS, size, token_bytes, seed=1)
    from nanochat.ngram.kneser_ney import KneserNey

    model = KneserNey.count(train, masked.order, size)
    nats = model.token_losses(everything)[DOCUMENTS.is_target]
    assert masked.loss == pytest.approx(nats.mean(), rel=1e-12)
