"""Trained models of every kind that a trace can show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, tiny_options

import nanochat

# Options of the runs, by what is special about them.
RUNS: Mapping[str, dict[str, Any]] = {
    "microgpt": {"model_kind": "mini-gpt", "n_layer": 1, "n_head": 4, "n_embd": 16},
    "rope": {
        "model_kind": "mini-gpt", "n_layer": 2, "positions": "rope", "activation": "relu2",
        "qk_norm": True, "tie_lm_head": True, "init_std": 0.3,
    },
    "output norm": {
        "model_kind": "mini-gpt", "n_layer": 2, "output_rmsnorm": True, "init_std": 0.3,
    },
    "counts": {"model_kind": "mini-gpt", "n_layer": 1, "ngram_order": 4, "logit_softcap": 5.0},
    "normed counts": {
        "model_kind": "mini-gpt", "n_layer": 1, "ngram_order": 4, "logit_softcap": 5.0,
        "output_rmsnorm": True,
    },
    "plain": {"model_kind": "mini-gpt", "n_layer": 1, "input_rmsnorm": False, "positions": "rope"},
    "bigram": {"model_kind": "bigram"},
    "normed bigram": {"model_kind": "bigram", "output_rmsnorm": True},
}  # fmt: skip
TENSOR_RUNS: Mapping[str, dict[str, Any]] = {
    "tables": {
        "mode": "tensor", "model_kind": "mini-gpt", "n_layer": 1, "prev_token_tables": 1,
        "hash_embed_rows": 16, "hash_embed_longest": 2, "dtype": "float64",
    },
}  # fmt: skip
TRACED = "anna"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., nanochat.LanguageModel]:
    """Return a model by the name of its run; keywords are those of nanochat.load."""
    root: Path = tmp_path_factory.mktemp("traced")
    (root / "names.txt").write_text(TEXT, encoding="utf-8")

    @cache
    def run(name: str) -> Path:
        options = tiny_options(out=str(root / name), num_samples=0, **{**RUNS, **TENSOR_RUNS}[name])
        options["data"] = str(root / "names.txt")
        nanochat.train(nanochat.TrainConfig(**options))
        return root / name

    @cache
    def model(name: str, **options: Any) -> nanochat.LanguageModel:
        return nanochat.load(run(name), **options)

    return model
