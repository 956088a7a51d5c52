"""A folder that transformers opens as NanoChatForCausalLM, with its tokenizer.

The model there is that of karpathy/nanochat: RoPE, then the norm of queries and keys, and a norm
after the embedding and before the head; its norms have no weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.tokenizer import BOS
from nanochat.errors import MissingDependency
from nanochat.exporting.byte_level import BOS_TEXT
from nanochat.exporting.chat_template import SPLIT_NAME, end_tokens, jinja_template
from nanochat.exporting.network import Known, Network, Run
from nanochat.exporting.tokenizer_json import tokenizer_config, tokenizer_json
from nanochat.model.parameters import RMSNORM_EPS, ROPE_BASE
from nanochat.system.json_text import json_bytes

__all__ = ["KNOWN", "load_and_run", "write"]

KNOWN: Known = {
    "model_kind": ("mini-gpt",), "model_file": (None,), "activation": ("relu", "relu2"),
    "positions": ("rope",), "input_rmsnorm": (True,), "output_rmsnorm": (True,),
    "qk_norm": (True,), "prev_token_tables": (0,), "hash_embed_rows": (0,),
    **dict.fromkeys(
        ("n_layer", "n_head", "n_embd", "block_size", "hash_embed_longest", "ngram_order",
         "tie_lm_head", "logit_softcap")
    ),
}  # fmt: skip

# The normalizer of tokenizer.json joins the names again, after the special tokens were found.
_SPLIT_NAMES = " | replace('{}', '{}')".format(
    *(each.replace("\0", r"\u0000") for each in SPLIT_NAME)
)

_OF_A_LAYER = {
    "attn_wq": "self_attn.q_proj", "attn_wk": "self_attn.k_proj", "attn_wv": "self_attn.v_proj",
    "attn_wo": "self_attn.o_proj", "mlp_fc1": "mlp.fc1", "mlp_fc2": "mlp.fc2",
}  # fmt: skip


def write(network: Network, folder: Path, weights: str) -> None:
    """Write the files into a folder, with weights of type f32."""
    longest, tokenizer = network.config.block_size, network.tokenizer
    chats = isinstance(tokenizer, ChatTokenizer)
    ends = end_tokens(tokenizer)
    generation = {
        "bos_token_id": BOS, "eos_token_id": ends if chats else BOS, "do_sample": True,
        "max_length": longest,
    }  # fmt: skip
    end = tokenizer.token_text(ends[0]) if chats else BOS_TEXT
    for name, record in (
        ("config.json", _config(network)),
        ("generation_config.json", generation),
        (
            "tokenizer.json",
            tokenizer_json(
                tokenizer, opens_with_bos=network.opens_with_bos, with_chat_template=chats
            ),
        ),
        ("tokenizer_config.json", tokenizer_config(longest, end, with_chat_template=chats)),
    ):
        (folder / name).write_bytes(json_bytes(record))
    if chats:
        template = jinja_template(_SPLIT_NAMES)
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="\n")
    (folder / "model.safetensors").write_bytes(save(_tensors(network), metadata={"format": "pt"}))


def _config(network: Network) -> dict[str, Any]:
    config = network.config
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "vocab_size": network.tokenizer.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "max_position_embeddings": config.block_size,
        "hidden_act": config.activation,
        "rms_norm_eps": RMSNORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
        "final_logit_softcapping": config.logit_softcap or None,
        "attention_bias": False,
        "tie_word_embeddings": config.tie_lm_head,
        "bos_token_id": BOS,
        "eos_token_id": end_tokens(network.tokenizer)[0],
        "pad_token_id": None,  # torch would give the row of a padding token no gradient
        "dtype": "float32",
    }


def _tensors(network: Network) -> dict[str, NDArray[np.float32]]:
    weights = network.weights
    tensors = {"model.embed_tokens.weight": network.embedding}
    for layer in range(network.config.n_layer):
        for ours, theirs in _OF_A_LAYER.items():
            tensors[f"model.layers.{layer}.{theirs}.weight"] = weights[f"layer{layer}.{ours}"]
    if not network.config.tie_lm_head:
        tensors["lm_head.weight"] = network.head
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def load_and_run(
    folder: Path,
    rows: NDArray[np.int64],  # (rows, length)
    texts: Sequence[str],
) -> Run:
    """Open the folder in transformers. Raises MissingDependency without it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the folder
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, logging
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"export to hf is verified with transformers and torch, and {error.name} is not"
            " installed; pip install 'nanochat-lab[hf]', or give --no-verify"
        ) from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.from_numpy(rows)).logits.numpy()
    return Run(
        program=f"transformers {metadata.version('transformers')}", logits=logits,
        ids=[tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts],
    )  # fmt: skip
