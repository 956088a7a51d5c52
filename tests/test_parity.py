"""Both engines with one config and seed have the same weights, batches and losses.

TABLE has every combination of options that both engines support. A covering set, in which every
pair of option values occurs, runs 500 steps in float32; `--long` runs them for all combinations.

At these learning rates every combination trains stably with one document per step. At higher rates
(for example AdamW 0.01 with tied, unnormalized embeddings and RoPE) training itself doubles a
rounding error every few steps. Each float32 engine then diverges from float64 as fast as from the
other engine, while both still agree to 1e-12 in float64 over 20 steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batcher, make_batcher
from nanochat.data.corpus import load_corpus
from nanochat.data.documents import encode_documents
from nanochat.data.tokenizer import Tokenizer, build_tokenizer
from nanochat.scalar.engine import ScalarEngine
from nanochat.tensor.engine import TensorEngine
from nanochat.training.engine import Engine
from nanochat.training.loop import step_settings

AXES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "mini-gpt": {
        "tie_lm_head": (False, True),
        "input_rmsnorm": (True, False),
        "positions": ("learned", "rope"),
        "activation": ("relu", "relu2"),
        "qk_norm": (False, True),
        "optimizer": ("adamw", "sgd"),
        "ngram_order": (0, 4),
    },
    "bigram": {
        "tie_lm_head": (False, True),
        "input_rmsnorm": (True, False),
        "output_rmsnorm": (False, True),
        "optimizer": ("adamw", "sgd"),
    },
}
SIZE: Mapping[str, Mapping[str, Any]] = {
    "mini-gpt": {"preset": "microgpt"},
    "bigram": {"preset": "bigram", "n_embd": 16, "batching": "documents", "batch_size": 1},
}


def combinations(kind: str) -> list[dict[str, Any]]:
    """All of them. In those of a mini-gpt, output_rmsnorm follows from the parity of the others, so
    that it meets each value of every other option, and each pair of them, on and off."""
    axes = AXES[kind]
    found = []
    for places in itertools.product(*(range(len(values)) for values in axes.values())):
        chosen = {name: axes[name][at] for name, at in zip(axes, places, strict=True)}
        found.append({"output_rmsnorm": sum(places) % 2 == 1, **chosen})
    return found


TABLE = [(kind, options) for kind in AXES for options in combinations(kind)]


def covering(kind: str) -> Iterator[dict[str, Any]]:
    """Yield few combinations, chosen greedily, in which every pair of option values occurs."""

    def pairs(options: Mapping[str, Any]) -> set[Any]:
        return set(itertools.combinations(sorted(options.items()), 2))

    missing = set().union(*(pairs(options) for options in combinations(kind)))
    while missing:
        best = max(combinations(kind), key=lambda options: len(pairs(options) & missing))
        missing -= pairs(best)
        yield best


def label(case: tuple[str, Mapping[str, Any]]) -> str:
    return "-".join([case[0], *(str(value) for value in case[1].values())])


def make_config(kind: str, options: Mapping[str, Any], **more: Any) -> TrainConfig:
    lr = 0.01 if options.get("optimizer") == "sgd" else 0.003
    return TrainConfig(**{"mode": "scalar", "lr": lr, **SIZE[kind], **options, **more})


@pytest.fixture(scope="module")
def corpus() -> tuple[Tokenizer, Any]:
    texts = list(load_corpus("names").documents)
    tokenizer = build_tokenizer("char", texts)
    return tokenizer, encode_documents(tokenizer, texts)


def engines(config: TrainConfig, tokenizer: Tokenizer, dtype: str) -> tuple[Engine, Engine]:
    return (
        ScalarEngine(config, tokenizer.vocab_size, dtype=dtype),
        TensorEngine(config, tokenizer.vocab_size, device="cpu", dtype=dtype),
    )


def batcher_of(config: TrainConfig, documents: Any) -> Batcher:
    by_counts = None
    if config.ngram_order:  # the engines take the probabilities as given
        by_counts = np.random.default_rng(0).random(documents.pairs, dtype=np.float32)
    return make_batcher(
        config.batching, documents, batch_size=config.batch_size, block_size=config.block_size,
        grad_accum=config.grad_accum, seed=config.seed, by_counts=by_counts,
    )  # fmt: skip


def walk(engine: Engine, batcher: Batcher, config: TrainConfig, steps: int) -> np.ndarray:
    return np.array(
        [
            engine.step(batcher.step(step), step_settings(config, step)).read().loss
            for step in range(steps)
        ]
    )


def largest_difference(
    config: TrainConfig, corpus: tuple[Tokenizer, Any], dtype: str, steps: int
) -> float:
    tokenizer, documents = corpus
    batcher = batcher_of(config, documents)
    scalar, tensor = (walk(e, batcher, config, steps) for e in engines(config, tokenizer, dtype))
    assert np.isfinite(scalar).all()
    return float(np.max(np.abs(scalar - tensor) / np.abs(scalar)))


@pytest.mark.parametrize("case", TABLE, ids=label)
def test_engines_have_the_same_losses_in_float64(case: tuple[str, Any], corpus: Any) -> None:
    assert largest_difference(make_config(*case), corpus, "float64", 20) <= 1e-12


COVERING = [(kind, options) for kind in AXES for options in covering(kind)]


def assert_same_losses_for_500_steps(case: tuple[str, Any], corpus: Any) -> None:
    """In float32, a rounding error may change the sign of an activation that ReLU cuts off at zero.
    Two correct engines part there, so models with ReLU are compared in float64."""
    is_smooth = case[1].get("activation") != "relu"
    dtype, tolerance = ("float32", 1e-5) if is_smooth else ("float64", 1e-12)
    assert largest_difference(make_config(*case), corpus, dtype, 500) <= tolerance


@pytest.mark.parametrize("case", COVERING, ids=label)
def test_engines_have_the_same_losses_for_500_steps(case: Any, corpus: Any) -> None:
    assert_same_losses_for_500_steps(case, corpus)


def test_engines_have_the_same_losses_with_the_microgpt_preset(corpus: Any) -> None:
    config = TrainConfig(mode="scalar", preset="microgpt")
    assert config.lr == 0.01
    assert largest_difference(config, corpus, "float64", 20) <= 1e-12
    assert largest_difference(config, corpus, "float32", 500) <= 1e-5


@pytest.mark.long
@pytest.mark.parametrize("case", [c for c in TABLE if c not in COVERING], ids=label)
def test_engines_have_the_same_losses_for_500_steps_everywhere(case: Any, corpus: Any) -> None:
    assert_same_losses_for_500_steps(case, corpus)


@pytest.mark.parametrize("batching", ["windows", "packed", "documents"])
def test_every_batcher_gives_both_engines_the_same_losses(batching: str, corpus: Any) -> None:
    options = {"positions": "rope", "qk_norm": True, "logit_softcap": 15.0}
    config = make_config("mini-gpt", options, batching=batching, batch_size=3, grad_accum=2)
    assert largest_difference(config, corpus, "float64", 5) <= 1e-12


def test_clipped_and_decayed_updates_agree(corpus: Any) -> None:
    config = make_config("mini-gpt", {}, grad_clip=0.5, weight_decay=0.1, batch_size=2)
    assert largest_difference(config, corpus, "float64", 20) <= 1e-12


@pytest.mark.parametrize("case", TABLE, ids=label)
def test_engines_draw_the_same_initial_weights(case: tuple[str, Any], corpus: Any) -> None:
    tokenizer, _ = corpus
    scalar, tensor = engines(make_config(*case), tokenizer, "float64")
    ours, theirs = scalar.state_dict().weights, tensor.state_dict().weights
    assert list(ours) == list(theirs)
    for name, weights in ours.items():
        assert np.array_equal(weights, theirs[name]), name


@pytest.mark.parametrize("case", TABLE, ids=label)
def test_engines_score_and_decode_alike(case: tuple[str, Any], corpus: Any) -> None:
    tokenizer, documents = corpus
    config = make_config(*case)
    batch = batcher_of(config, documents).step(0)[0]
    scalar, tensor = engines(config, tokenizer, "float64")
    ours, theirs = scalar.token_losses(batch), tensor.token_losses(batch)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    decoders = [engine.open_decoder([[0, 5], [0, 7]]) for engine in (scalar, tensor)]
    for token in (3, 9, 1):
        ours_logits, theirs_logits = (decoder.logits for decoder in decoders)
        np.testing.assert_allclose(ours_logits, theirs_logits, rtol=0, atol=1e-12)
        for decoder in decoders:
            decoder.advance([token, token + 1])


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_decoders_slide_past_the_block_alike(positions: str, corpus: Any) -> None:
    tokenizer, _ = corpus
    config = make_config("mini-gpt", {"positions": positions}, block_size=4, n_layer=2)
    decoders = [e.open_decoder([[0]]) for e in engines(config, tokenizer, "float64")]
    for token in (3, 9, 1, 4, 20, 11, 2, 8, 5):
        for decoder in decoders:
            decoder.advance([token])
        np.testing.assert_allclose(decoders[0].logits, decoders[1].logits, rtol=0, atol=1e-12)
