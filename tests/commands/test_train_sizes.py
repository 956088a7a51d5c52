"""result.json: parameters, table entries and bytes, against the weights file of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import nanochat

SMALL = {"mode": "tensor", "threads": 1, "steps": 2, "baseline": False}


@pytest.mark.parametrize(
    ("kind", "options", "tables"),
    [
        ("bigram", {}, {"wte"}),
        ("mini-gpt", {"steps": 2}, {"wte", "wpe"}),
        ("mini-gpt", {"tie_lm_head": True}, {"wpe"}),
        ("mini-gpt", {"positions": "rope"}, {"wte"}),
        ("mini-gpt", {**SMALL, "prev_token_tables": 2, "hash_embed_rows": 50},
         {"wte", "wte1", "wte2", "wte_ngram", "wpe"}),
        ("mini-gpt", {**SMALL, "tie_lm_head": True, "hash_embed_rows": 50}, {"wte_ngram", "wpe"}),
    ],
)  # fmt: skip
def test_the_counts_are_those_of_the_weights_file(folder, tiny, cli, kind, options, tables):
    result = nanochat.train(tiny(kind, out="run", **options))
    saved = json.loads(Path("run/result.json").read_text())
    file = Path(f"run/checkpoints/step-{saved['best_step']:06d}/weights.safetensors")
    sizes = {name: weights.size for name, weights in load_file(file).items()}
    assert saved["params"] == result.metrics["params"] == sum(sizes.values())
    assert saved["table_entries"] == sum(sizes[name] for name in tables)
    assert saved["weights_bytes"] == file.stat().st_size
    page = cli("runs", "show", "run").out
    entries = f"{saved['params']:,} parameters ({saved['table_entries']:,} of them table entries)"
    assert entries in page


def test_a_model_with_tables_says_so_before_it_trains(folder, tiny, cli, flags):
    words = flags(**tiny("mini-gpt", **SMALL, hash_embed_rows=50, n_embd=8))
    told = cli("train", *words)
    assert told.code == 0, told.err
    vocabulary = len(set("".join(Path("names.txt").read_text().split()))) + 1
    entries = 8 * (vocabulary + 50 + 8)  # wte, wte_ngram, wpe of block_size 8
    assert f" parameters ({entries:,} of them table entries), tensor engine" in told.err
