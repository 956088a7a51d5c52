"""Fixtures: runs that each format can express, one for each kind of tokenizer."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

import nanochat
from nanochat import TrainConfig

PORTABLE = {
    "mode": "tensor", "model_kind": "mini-gpt", "positions": "rope", "activation": "relu2",
    "input_rmsnorm": True, "output_rmsnorm": True, "qk_norm": True, "tie_lm_head": False,
    "prev_token_tables": 0, "hash_embed_rows": 0, "n_layer": 2, "n_head": 2, "n_embd": 32,
    "block_size": 16, "steps": 20, "lr": 0.01, "batch_size": 8, "num_samples": 0, "ngram_order": 0,
    "documents": "line", "baseline": False, "threads": 1, "seed": 3,
}  # fmt: skip
RUNS: dict[str, dict[str, object]] = {
    "char": {},
    "byte": {"tokenizer": "byte", "tie_lm_head": True, "activation": "relu"},
    "bpe": {"tokenizer": "bpe", "vocab_size": 300, "logit_softcap": 15.0},
    "scalar": {"mode": "scalar", "n_layer": 1, "n_embd": 16},
    "one document": {"documents": "file", "n_layer": 1},
    "mixed": {"ngram_order": 3, "n_layer": 1},
}


@pytest.fixture(scope="session")
def exportable(tmp_path_factory) -> dict[str, Path]:
    """Return the folder of each run by its name in RUNS."""
    folder = tmp_path_factory.mktemp("exportable")
    names = [
        "anna",
        "bob",
        "café",
        "dora",
        "emma",
        "fred",
        "gül",
        "hana",
        "ida",
        "jörg",
        "karl",
        "lena",
        "mia",
        "nils",
        "otto",
    ]
    (folder / "names.txt").write_text("\n".join(f"{a} und {b}" for a in names for b in names[:5]))
    for name, options in RUNS.items():
        given = {
            **PORTABLE,
            "data": str(folder / "names.txt"),
            "out": str(folder / name),
            **options,
        }
        nanochat.train(TrainConfig(**given))
    return {name: folder / name for name in RUNS}


ANSWERS = {"hi": "hello you", "bye": "see you", "a\nb": "two"}
CHATS: dict[str, dict[str, object]] = {
    "char": {}, "byte": {"tokenizer": "byte"},
    "bpe": {"tokenizer": "bpe", "vocab_size": 280, "bpe_pattern": "gpt-2"},
}  # fmt: skip


@pytest.fixture(scope="session")
def chats(tmp_path_factory) -> dict[str, Path]:
    """Return the folder of a run of conversations by its name in CHATS. Each has learned ANSWERS."""
    folder = tmp_path_factory.mktemp("chats")
    talks = [
        "".join(f"User: {q}\nAssistant: {a}\n" for q, a in talk)
        for talk in product(ANSWERS.items(), repeat=3)
    ]
    names = "User: <|user|><|end|> <|bos|> <|assistant|> <|system|> < | >\nAssistant: x\n"
    (folder / "chat.txt").write_text("\n".join([*talks, names, f"System: be\n{names}"]))
    for name, options in CHATS.items():
        given = {
            **PORTABLE, "n_layer": 1, "block_size": 48, "steps": 200, "documents": "chat",
            "data": str(folder / "chat.txt"), "out": str(folder / name), **options,
        }  # fmt: skip
        nanochat.train(TrainConfig(**given))
    return {name: folder / name for name in CHATS}
