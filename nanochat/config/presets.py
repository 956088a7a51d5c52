"""Named sets of defaults: the one table that the constructor, `--help` and the tests read."""

from __future__ import annotations

from typing import Any

from nanochat.config.option import AUTO

__all__ = ["CHOSEN_BY_TEXT", "PORTABLE", "PORTABLE_PIECES", "PRESETS"]

# The presets that config/preset_choice.py may choose.
CHOSEN_BY_TEXT = ("mini", "pico", "nano", "small")

# Over any preset of a mini-gpt, with the option portable: a model that `nanochat export` can write
# in every format.
PORTABLE: dict[str, Any] = {
    "activation": "relu2",
    "positions": "rope",
    "qk_norm": True,
    "input_rmsnorm": True,
    "output_rmsnorm": True,
    "logit_softcap": 0.0,
    "prev_token_tables": 0,
    "hash_embed_rows": 0,
    "ngram_order": 0,
    "bpe_pattern": "gpt-2",
}

# Beside it, in a preset that otherwise has tables of n-grams: word pieces do what they did.
PORTABLE_PIECES: dict[str, dict[str, Any]] = {"nano": {"tokenizer": "bpe", "vocab_size": 1024}}

# Each preset lists only what differs from the defaults in options.TrainConfig.
PRESETS: dict[str, dict[str, Any]] = {
    # The default of the tensor engine: a good names model in a few seconds on two cores.
    "mini": {
        "model_kind": "mini-gpt",
        "ngram_order": AUTO,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 64,
        "block_size": 16,
        "batch_size": 64,
        "steps": 600,
        "lr": 8e-3,
    },
    # The default of the scalar engine: a names model within three seconds of the command.
    "pico": {
        "model_kind": "mini-gpt",
        "ngram_order": AUTO,
        "n_layer": 1,
        "n_head": 4,
        "n_embd": 40,
        "block_size": 16,
        "activation": "relu",
        "positions": "learned",
        "dtype": "float32",  # a step takes two thirds of the time of float64
        "batch_size": 16,
        "steps": 2000,
        "lr": 0.01,
        "warmup_ratio": 0.05,
        "warmdown_ratio": 0.95,
        "beta1": 0.85,
    },
    # karpathy's microgpt.py, final gist: model, optimizer and one document per step.
    "microgpt": {
        "model_kind": "mini-gpt",
        "n_layer": 1,
        "n_head": 4,
        "n_embd": 16,
        "block_size": 16,
        "activation": "relu",
        "positions": "learned",
        "qk_norm": False,
        "batching": "documents",
        "batch_size": 1,
        "steps": 1000,
        "lr": 0.01,
        "warmdown_ratio": 1.0,
        "beta1": 0.85,
        "beta2": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "eval_every": 1000,
        "eval_tokens": 2000,
    },
    # Shakespeare at nanoGPT's CPU size: 0.8 M parameters, with its context window and batch. Every
    # option that differs from the defaults was ablated: docs/recipe.md.
    "nano": {
        "model_kind": "mini-gpt",
        "data": ("shakespeare",),
        "ngram_order": AUTO,
        "n_layer": 2,
        "n_head": 3,
        "n_embd": 96,
        "block_size": 64,
        "prev_token_tables": 3,
        "hash_embed_rows": 5120,
        "zero_init": True,
        "batching": "windows",
        "batch_size": 12,
        "steps": 2000,
        "lr": 4e-3,
        "weight_decay": 0.2,
        "beta1": 0.8,
        "beta2": 0.95,
        "lr_schedule": "cosine",
        "warmup_ratio": 0.05,
        "warmdown_ratio": 0.95,
        "final_lr_frac": 0.1,
        "grad_clip": 1.0,
        "max_new_tokens": 300,
        "num_samples": 1,
    },
    # For texts of some hundred kilobytes or more: a step reads three times as much text in word
    # pieces. N-gram embeddings of pieces overfit. With counts, a small network and more steps are
    # better than a large one (docs/recipe.md).
    "small": {
        "model_kind": "mini-gpt",
        "data": ("shakespeare",),
        "tokenizer": "bpe",
        "vocab_size": 1024,
        "ngram_order": AUTO,
        "n_layer": 3,
        "n_head": 3,
        "n_embd": 96,
        "block_size": 128,
        "prev_token_tables": 1,
        "zero_init": True,
        "batching": "windows",
        "batch_size": 6,
        "steps": 3000,
        "lr": 6e-3,
        "weight_decay": 1.0,
        "beta1": 0.8,
        "beta2": 0.98,
        "lr_schedule": "cosine",
        "warmup_ratio": 0.05,
        "warmdown_ratio": 0.95,
        "grad_clip": 1.0,
        "max_new_tokens": 100,
        "num_samples": 1,
    },
    # The shape of GPT-2 with 124 M parameters (Radford et al. 2019), with this project's block. For
    # a GPU: half a million tokens per step.
    "gpt2-124m": {
        "model_kind": "mini-gpt",
        "data": ("shakespeare",),
        "n_layer": 12,
        "n_head": 12,
        "n_embd": 768,
        "block_size": 1024,
        "zero_init": True,
        "batching": "windows",
        "batch_size": 32,
        "grad_accum": 16,
        "auto_batch": True,
        "steps": 2000,
        "optimizer": "muon",
        "matrix_lr": 0.02,
        "lr": 3e-3,
        "init_std": 0.02,
        "weight_decay": 0.1,
        "lr_schedule": "linear",
        "warmup_ratio": 0.02,
        "warmdown_ratio": 0.5,
        "grad_clip": 1.0,
        "max_new_tokens": 300,
        "num_samples": 1,
    },
    # One embedding and one head: it can learn only the bigram table.
    "bigram": {
        "model_kind": "bigram",
        "n_layer": 0,
        "n_head": 1,
        "n_embd": 64,
        "block_size": 16,
        "activation": "relu",
        "positions": "learned",
        "qk_norm": False,
        "batch_size": 64,
        "steps": 1000,
        "lr": 0.02,
        "weight_decay": 0.0,
    },
    # Counted n-grams alone: nothing is trained, and all validation text is scored once. The context
    # window only sizes the batches of an evaluation.
    "ngram": {
        "model_kind": "ngram",
        "n_layer": 0,
        "n_head": 1,
        "block_size": 1024,
        "activation": "relu",
        "positions": "learned",
        "input_rmsnorm": False,
        "qk_norm": False,
        "ngram_order": AUTO,
        "batching": "windows",
        "steps": 0,
        "eval_every": 0,
        "eval_tokens": 0,
        "baseline": False,
    },
}
