"""The scalar MiniGPT with `--preset microgpt` is bit-identical to microgpt.py."""

from __future__ import annotations

import numpy as np
import pytest
from oracles.plain_gpt import Adam, document_loss
from oracles.plain_value import PlainValue

from nanochat import _scalar
from nanochat.config.options import TrainConfig
from nanochat.data.batches import make_batcher
from nanochat.data.corpus import load_corpus
from nanochat.data.documents import encode_documents
from nanochat.data.tokenizer import build_tokenizer
from nanochat.model.parameters import initial_weights
from nanochat.scalar.engine import ScalarEngine
from nanochat.training.loop import step_settings

STEPS = 25


def test_microgpt_preset_is_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = []
    recorder = _scalar.Recorder
    monkeypatch.setattr(
        _scalar, "Recorder", lambda *given: recordings.append(given) or recorder(*given)
    )
    config = TrainConfig(mode="scalar", preset="microgpt")
    texts = list(load_corpus("names").documents)
    tokenizer = build_tokenizer("char", texts)
    batcher = make_batcher(
        "documents", encode_documents(tokenizer, texts), batch_size=1,
        block_size=config.block_size, seed=config.seed,
    )  # fmt: skip
    engine = ScalarEngine(config, tokenizer.vocab_size, dtype="float64")
    for step in range(STEPS):
        engine.step(batcher.step(step), step_settings(config, step))
    engine.open_decoder([[0]]).advance([1])
    assert len(recordings) == 1


@pytest.mark.parametrize("steps", [8, pytest.param(60, marks=pytest.mark.long)])
def test_microgpt_preset_walks_the_losses_of_plain_python_bit_for_bit(steps: int) -> None:
    config = TrainConfig(mode="scalar", preset="microgpt", numerics="exact")
    texts = list(load_corpus("names").documents)
    tokenizer = build_tokenizer("char", texts)
    batcher = make_batcher(
        "documents", encode_documents(tokenizer, texts), batch_size=1,
        block_size=config.block_size, seed=config.seed,
    )  # fmt: skip
    engine = ScalarEngine(config, tokenizer.vocab_size, dtype="float64")
    weights = {
        name: [[PlainValue(float(x)) for x in row] for row in matrix]
        for name, matrix in initial_weights(config, tokenizer.vocab_size).items()
    }
    parameters = [p for matrix in weights.values() for row in matrix for p in row]
    adam = Adam(parameters, config.beta1, config.beta2, config.eps)

    ours, theirs = [], []
    for step in range(steps):
        (batch,) = batcher.step(step)
        ours.append(engine.step([batch], step_settings(config, step)).read().loss)
        loss = document_loss(weights, batch.inputs[0].tolist(), batch.targets[0].tolist())
        loss.backward()
        adam.step(step, 0.01 * (1 - step / config.steps))
        theirs.append(loss.data)

    assert [x.hex() for x in ours] == [x.hex() for x in theirs]
    for name, matrix in engine.state_dict().weights.items():
        plain = np.array([[p.data for p in row] for row in weights[name]])
        assert np.array_equal(matrix, plain), name
