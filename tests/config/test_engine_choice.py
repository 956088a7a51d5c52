"""Which engine `--mode auto` takes: the rule's edges, its words, and what it is told."""

from __future__ import annotations

import pytest

from nanochat.commands.ablate import plan_runs
from nanochat.config import engine_choice as auto
from nanochat.config.engine_choice import LINE_CORPORA, MOST_PRODUCTS, choose_engine, products
from nanochat.config.options import AblateConfig, TrainConfig
from nanochat.data.registry import REGISTRY
from nanochat.model.parameters import parameter_specs

LARGE = "the faster engine for a model or batch this large"
SMALL = "the faster engine for a small model of short lines"
CHOICES = [
    ({}, "scalar", SMALL),
    ({"preset": "pico"}, "scalar", SMALL),
    ({"preset": "microgpt"}, "scalar", SMALL),
    ({"model_kind": "bigram"}, "scalar", SMALL),
    ({"data": "names-makemore"}, "scalar", SMALL),
    ({"data": "haiku.txt", "documents": "line"}, "scalar", SMALL),
    ({"numerics": "exact", "n_embd": 128}, "scalar", "only this engine supports numerics exact"),
    ({"preset": "mini"}, "tensor", LARGE),
    ({"preset": "nano"}, "tensor", "only this engine supports prev_token_tables"),
    ({"n_embd": 128}, "tensor", LARGE),
    ({"n_layer": 6}, "tensor", LARGE),
    ({"batch_size": 256}, "scalar", SMALL),
    ({"batch_size": 128, "grad_accum": 3}, "tensor", LARGE),
    ({"block_size": 256}, "tensor", LARGE),
    ({"data": "novel.txt"}, "tensor", "the faster engine for long documents"),
    ({"documents": "file"}, "tensor", "the faster engine for long documents"),
    ({"documents": "paragraph"}, "tensor", "the faster engine for long documents"),
    ({"device": "cuda"}, "tensor", "only this engine supports device cuda"),
    ({"device": "mps", "loss": "torch"}, "tensor", "only this engine supports device mps"),
    ({"loss": "torch"}, "tensor", "only this engine supports loss torch"),
    ({"dtype": "bfloat16"}, "tensor", "only this engine supports dtype bfloat16"),
    ({"dropout": 0.1}, "tensor", "only this engine supports dropout"),
    ({"prev_token_tables": 1}, "tensor", "only this engine supports prev_token_tables"),
    ({"hash_embed_rows": 1}, "tensor", "only this engine supports hash_embed_rows"),
    ({"auto_batch": True}, "tensor", "only this engine supports auto_batch"),
    ({"compile": "on"}, "tensor", "only this engine supports compile on"),
    ({"optimizer": "muon"}, "tensor", "only this engine supports optimizer muon"),
]


@pytest.mark.parametrize(("options", "mode", "reason"), CHOICES)
def test_auto_takes_the_engine_of_the_rule_and_gives_its_reason(options, mode, reason):
    config = TrainConfig(**options)
    assert config.mode == mode
    assert choose_engine(config.to_dict()) == (mode, reason)


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_an_engine_that_is_named_is_taken(mode):
    for options in ({}, {"preset": "mini"}, {"preset": "microgpt"}):
        assert TrainConfig(mode=mode, **options).mode == mode


def test_several_processes_take_the_tensor_engine(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = TrainConfig()
    assert (config.mode, config.preset) == ("tensor", "mini")
    assert choose_engine(config.to_dict()) == (
        "tensor",
        "only this engine supports several processes",
    )


def test_without_torch_every_model_that_the_scalar_engine_can_train_is_its_own(monkeypatch):
    monkeypatch.setattr(auto.importlib.util, "find_spec", lambda name: None)
    for options in ({"n_embd": 128}, {"documents": "file"}):
        config = TrainConfig(**options)
        assert (config.mode, config.preset) == ("scalar", "pico")
        assert choose_engine(config.to_dict()) == ("scalar", "torch is not installed")
    assert TrainConfig(device="cuda").mode == "tensor"  # which then says that torch is missing


def test_the_rule_counts_the_weights_and_the_attention_that_a_text_meets():
    for options in ({}, {"n_layer": 3, "n_embd": 20, "block_size": 24}, {"preset": "bigram"}):
        config = TrainConfig(mode="scalar", **options)
        weights = sum(
            spec.shape[0] * spec.shape[1]
            for spec in parameter_specs(config, 30) if spec.name not in ("wte", "wpe")
        )  # fmt: skip
        # Scores and weighted values, each of n_embd products with half the block on average.
        attention = 2 * config.n_layer * config.n_embd * config.block_size // 2
        assert products(config.to_dict(), 30) == config.block_size * (weights + attention)


def test_the_edge_of_the_rule_is_the_number_of_products():
    config = TrainConfig(mode="scalar").to_dict()
    vocab = 1
    while products(config, vocab + 1) <= MOST_PRODUCTS:
        vocab += 1
    assert choose_engine(config, vocab)[0] == "scalar"
    assert choose_engine(config, vocab + 1)[0] == "tensor"


def test_corpora_of_lines_are_those_of_the_registry():
    assert set(LINE_CORPORA) == {n for n, entry in REGISTRY.items() if entry.documents == "line"}


def test_an_ablation_trains_all_its_variants_with_one_engine_and_preset():
    cells = plan_runs(AblateConfig(vary=("n_embd=16,128",), seeds=1), {})
    assert {(c.config.mode, c.config.preset) for c in cells} == {("tensor", "mini")}
    cells = plan_runs(AblateConfig(vary=("n_embd=16,24",), seeds=1), {})
    assert {(c.config.mode, c.config.preset) for c in cells} == {("scalar", "pico")}
    cells = plan_runs(AblateConfig(vary=("mode=scalar,tensor",), seeds=1), {"preset": "microgpt"})
    assert [c.config.mode for c in cells] == ["scalar", "tensor"]


def test_exact_numerics_leave_the_dtype_of_the_preset_out():
    assert TrainConfig(preset="pico").dtype == "float32"
    assert TrainConfig(preset="pico", numerics="exact").dtype == "auto"
    assert TrainConfig(preset="pico", numerics="exact", dtype="float32").dtype == "float32"
