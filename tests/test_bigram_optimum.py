"""A trained bigram reaches what counting gives in closed form."""

from __future__ import annotations

from typing import Any

import pytest

from nanochat.config.options import TrainConfig
from nanochat.data.batches import evaluation_batches, make_batcher
from nanochat.data.counts import bigram_optimum, transition_counts
from nanochat.data.dataset import load_dataset
from nanochat.engines import build_engine, resolve_hardware
from nanochat.training.loop import evaluate, step_settings


def gap_to_optimum(**options: Any) -> float:
    """Nats per token above the maximum-likelihood bigram of the training part."""
    config = resolve_hardware(
        TrainConfig(mode="tensor", model_kind="bigram", steps=600, threads=1, **options)
    )
    dataset = load_dataset(config)
    engine = build_engine(config, dataset.tokenizer.vocab_size)
    batcher = make_batcher(
        dataset.batching, dataset.train, batch_size=config.batch_size,
        block_size=config.block_size, seed=config.seed,
    )  # fmt: skip
    for step in range(config.steps):
        engine.step(batcher.step(step), step_settings(config, step))
    training_part = evaluation_batches(dataset.train, batch_size=512, block_size=config.block_size)
    loss = evaluate(engine, training_part, dataset.tokenizer.token_bytes, config.steps).loss
    assert loss is not None
    return loss - bigram_optimum(transition_counts(dataset.train, dataset.tokenizer.vocab_size))


@pytest.mark.parametrize("input_rmsnorm", [True, False])
def test_untied_bigram_comes_within_a_hundredth_of_a_nat(input_rmsnorm: bool) -> None:
    assert 0 <= gap_to_optimum(input_rmsnorm=input_rmsnorm) <= 0.01


def test_tied_bigram_cannot() -> None:
    """wte · wteᵀ is symmetric, and transitions are not: about a third of a nat stays."""
    assert 0.2 <= gap_to_optimum(tie_lm_head=True) <= 0.5
