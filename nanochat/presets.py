"""Named sets of defaults, the one table that the constructor, `--help` and the tests read."""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

# Each preset is the whole of what differs from the defaults in config.TrainConfig.
PRESETS: dict[str, dict[str, Any]] = {
    # The default of the tensor engine: a good names model in a few seconds on two cores.
    "mini": {
        "model_kind": "mini-gpt",
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 64,
        "block_size": 16,
        "batch_size": 64,
        "steps": 600,
        "lr": 8e-3,
        "eval_every": 200,
    },
    # The default of the scalar engine: a names model within three seconds of the command.
    "pico": {
        "model_kind": "mini-gpt",
        "n_layer": 1,
        "n_head": 4,
        "n_embd": 40,
        "block_size": 16,
        "activation": "relu",
        "positions": "learned",
        "dtype": "float32",  # its steps take two thirds of float64's
        "batch_size": 16,
        "steps": 2000,
        "lr": 0.01,
        "warmup_ratio": 0.05,
        "warmdown_ratio": 0.95,
        "beta1": 0.85,
        "eval_every": 500,
    },
    # karpathy's microgpt.py, final gist: model, optimizer and one document a step.
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
    # Shakespeare at nanoGPT's CPU size: 0.8 M parameters, context and batch as there. Every option
    # that differs from the defaults was ablated: docs/recipe.md.
    "nano": {
        "model_kind": "mini-gpt",
        "data": "shakespeare",
        "n_layer": 3,
        "n_head": 4,
        "n_embd": 144,
        "block_size": 64,
        "past_embeds": 3,
        "zero_init": True,
        "batching": "windows",
        "batch_size": 12,
        "steps": 2000,
        "lr": 4e-3,
        "weight_decay": 0.3,
        "beta1": 0.8,
        "beta2": 0.95,
        "lr_schedule": "cosine",
        "warmup_ratio": 0.05,
        "warmdown_ratio": 0.95,
        "final_lr_frac": 0.1,
        "grad_clip": 1.0,
        "eval_every": 0,
        "max_new_tokens": 300,
        "num_samples": 1,
    },
    # One embedding and one head: it can learn the bigram table and nothing else.
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
        "eval_every": 250,
    },
}
