"""One GGUF file for llama.cpp, and a Modelfile for Ollama in the same folder.

The network is written as one of llama.cpp's architecture `apertus`, which computes the same: its
norms have weights, here ones; its activation xIELU is ReLU² with these numbers; the norm after the
embedding is applied to the rows before they are written; and it rotates by the opposite angle, so
that the second half of each head of the queries and keys is negated.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.bpe import BpeTokenizer
from nanochat.data.special_tokens import ChatTokenizer, plain_tokenizer
from nanochat.data.tokenizer import BOS
from nanochat.errors import MissingDependency, UnsupportedOption
from nanochat.exporting.byte_level import BOS_TEXT, byte_level, special_names
from nanochat.exporting.chat_template import (
    OLLAMA_TEMPLATE,
    end_tokens,
    jinja_template,
    with_split_names,
)
from nanochat.exporting.network import Known, Network, Run, check_has_blocks
from nanochat.model.parameters import RMSNORM_EPS, ROPE_BASE, rotary_angles

__all__ = ["KNOWN", "load_and_run", "write"]

KNOWN: Known = {
    "model_kind": ("mini-gpt",), "model_file": (None,), "activation": ("relu2",),
    "positions": ("rope",), "input_rmsnorm": (True,), "output_rmsnorm": (True,),
    "qk_norm": (True,), "prev_token_tables": (0,), "hash_embed_rows": (0,), "logit_softcap": (0,),
    **dict.fromkeys(
        ("n_layer", "n_head", "n_embd", "block_size", "hash_embed_longest", "ngram_order",
         "tie_lm_head")
    ),
}  # fmt: skip

FILE, MODELFILE = "model.gguf", "Modelfile"
ARCHITECTURE = "apertus"
# xIELU(x) = softplus(alpha_p) · x² for x > 0, and close to softplus(alpha_n) · (eˣ − 1 − x) else.
_ALPHA_P, _ALPHA_N = math.log(math.e - 1), -200.0
_NORMAL, _CONTROL = 1, 3  # types of tokens
PRE_TOKENIZERS = ("gpt-2", "llama-bpe")  # the patterns of tokenizer bpe that llama.cpp knows
Q8_BLOCK = 32  # weights that share a scale

_OF_A_LAYER = {
    "attn_wq": "attn_q", "attn_wk": "attn_k", "attn_wv": "attn_v", "attn_wo": "attn_output",
    "mlp_fc1": "ffn_up", "mlp_fc2": "ffn_down",
}  # fmt: skip


def write(network: Network, folder: Path, weights: str) -> None:
    """Write model.gguf with weights of type f32, f16 or q8_0, and the Modelfile.

    Raises UnsupportedOption for a tokenizer or a size that the file cannot have, and
    MissingDependency without the package gguf.
    """
    _check(network, weights)
    gguf = _gguf()
    kind = gguf.GGMLQuantizationType[weights.upper()]
    file = gguf.GGUFWriter(folder / FILE, ARCHITECTURE)
    _describe(file, network, gguf)
    for name, array in _tensors(network).items():
        if array.ndim == 1:
            file.add_tensor(name, array)
        else:
            file.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    (folder / MODELFILE).write_text(_modelfile(network), encoding="utf-8", newline="\n")


def _modelfile(network: Network) -> str:
    """Return the content of Modelfile, with the template that Ollama renders."""
    chats = isinstance(network.tokenizer, ChatTokenizer)
    template = f'"""{OLLAMA_TEMPLATE}"""' if chats else '"{{ .Prompt }}"'
    stops = [BOS_TEXT, *special_names(network.tokenizer)]
    lines = [
        f"FROM ./{FILE}",
        f"TEMPLATE {template}",
        f"PARAMETER num_ctx {network.config.block_size}",
    ]
    return "".join(f"{line}\n" for line in [*lines, *(f"PARAMETER stop {each}" for each in stops)])


def _check(network: Network, weights: str) -> None:
    check_has_blocks(network.config, "gguf")
    tokenizer, size = plain_tokenizer(network.tokenizer), network.config.n_embd
    if isinstance(tokenizer, BpeTokenizer) and tokenizer.pattern not in PRE_TOKENIZERS:
        raise UnsupportedOption(
            f"gguf needs bpe_pattern {' or '.join(PRE_TOKENIZERS)}, whose names llama.cpp knows,"
            f" got {tokenizer.pattern}; train with --bpe-pattern gpt-2"
        )
    if weights == "q8_0" and size % Q8_BLOCK:
        raise UnsupportedOption(
            f"weights q8_0 needs n_embd to be a multiple of {Q8_BLOCK}, got {size}; give --weights"
            " f16"
        )


def _gguf() -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"export to gguf needs {error.name}, which is not installed; pip install"
            " 'nanochat-lab[gguf]'"
        ) from error
    return gguf


def _describe(file: Any, network: Network, gguf: Any) -> None:
    config, layers = network.config, network.config.n_layer
    file.add_name(network.name)
    file.add_context_length(config.block_size)
    file.add_embedding_length(config.n_embd)
    file.add_block_count(layers)
    file.add_feed_forward_length(4 * config.n_embd)
    file.add_head_count(config.n_head)
    file.add_head_count_kv(config.n_head)
    file.add_layer_norm_rms_eps(RMSNORM_EPS)
    file.add_rope_dimension_count(config.head_dim)
    file.add_rope_freq_base(ROPE_BASE)
    file.add_vocab_size(network.tokenizer.vocab_size)
    file.add_xielu_alpha_p([_ALPHA_P] * layers)
    file.add_xielu_alpha_n([_ALPHA_N] * layers)
    file.add_xielu_beta([0.0] * layers)
    file.add_xielu_eps([-1e-6] * layers)
    vocabulary = byte_level(network.tokenizer)
    file.add_tokenizer_model("gpt2")
    plain = plain_tokenizer(network.tokenizer)
    pattern = plain.pattern if isinstance(plain, BpeTokenizer) else "gpt-2"
    special = network.tokenizer.vocab_size - plain.vocab_size
    file.add_tokenizer_pre(pattern)
    file.add_token_list(vocabulary.tokens)
    normal = len(vocabulary.tokens) - 1 - special
    file.add_token_types([_CONTROL, *[_NORMAL] * normal, *[_CONTROL] * special])
    # llama.cpp refuses a file without merges. This pair never occurs: both are whole tokens.
    merges = vocabulary.merges or [(BOS_TEXT, BOS_TEXT)]
    file.add_token_merges([f"{left} {right}" for left, right in merges])
    file.add_bos_token_id(BOS)
    end = end_tokens(network.tokenizer)[0]
    file.add_eos_token_id(end)
    if isinstance(network.tokenizer, ChatTokenizer):
        file.add_eot_token_id(end)
        file.add_chat_template(jinja_template(with_split_names(network.tokenizer)))
    file.add_add_bos_token(network.opens_with_bos)
    file.add_add_space_prefix(False)


def _tensors(network: Network) -> dict[str, NDArray[np.float32]]:
    config = network.config
    ones = np.ones(config.n_embd, np.float32)
    tensors = {
        "token_embd.weight": _normed(network.embedding), "output_norm.weight": ones,
        "output.weight": network.head,
    }  # fmt: skip
    for layer in range(config.n_layer):
        w = {name: network.weights[f"layer{layer}.{name}"] for name in _OF_A_LAYER}
        for name in ("attn_wq", "attn_wk"):
            w[name] = _turned_back(w[name], config.n_head)
        parts = {theirs: w[ours] for ours, theirs in _OF_A_LAYER.items()}
        parts |= {"attn_norm": ones, "ffn_norm": ones}
        parts |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), ones[: config.head_dim])
        tensors |= {f"blk.{layer}.{name}.weight": array for name, array in parts.items()}
    return tensors


def _normed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    wide = x.astype(np.float64)
    wide /= np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + RMSNORM_EPS)
    return wide.astype(np.float32)


def _turned_back(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Negate the second half of the rows of each head: the angles change their sign."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1]).copy()
    halves[:, 1] *= -1
    return halves.reshape(weight.shape)


# ---------------------------------------------------------------------------------- verification


def load_and_run(
    folder: Path,
    rows: NDArray[np.int64],  # (rows, length)
    texts: Sequence[str],
) -> Run:
    """Run the file in llama.cpp if llama-cpp-python is installed, otherwise by the formulas of
    llama.cpp's `apertus` in NumPy."""
    path = folder / FILE
    try:
        import llama_cpp
    except ModuleNotFoundError:
        return Run(program="llama.cpp's formulas", logits=_by_formulas(path, rows), ids=None)
    longest = rows.shape[1]
    with redirect_stderr(io.StringIO()):  # it says that its context is longer than the model's
        model = llama_cpp.Llama(
            str(path), n_ctx=longest, n_batch=longest, logits_all=True, verbose=False,
            n_gpu_layers=0, flash_attn=False, type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
        )  # fmt: skip
    logits = []
    for row in rows.tolist():
        model.reset()
        model.eval(row)
        logits.append(np.array(model.scores[: len(row)]))
    ids = [model.tokenize(text.encode(), add_bos=True, special=False) for text in texts]
    return Run(
        program=f"llama.cpp (llama-cpp-python {llama_cpp.__version__})",
        logits=np.stack(logits), ids=ids,
    )  # fmt: skip


def _by_formulas(
    path: Path,
    rows: NDArray[np.int64],  # (rows, length)
) -> NDArray[np.float64]:  # (rows, length, vocabulary)
    gguf = _gguf()
    file = gguf.GGUFReader(path)
    w = {
        each.name: gguf.quants.dequantize(each.data, each.tensor_type).astype(np.float64)
        for each in file.tensors
    }
    heads, layers, eps = (
        file.fields[f"{ARCHITECTURE}.{key}"].contents()
        for key in (
            "attention.head_count", "block_count", "attention.layer_norm_rms_epsilon",
        )
    )  # fmt: skip

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
        scaled *= w[f"{name}.weight"]
        return scaled

    def by_head(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x.reshape(*rows.shape, heads, -1).swapaxes(1, 2)

    length = rows.shape[1]
    x = w["token_embd.weight"][rows]
    size = x.shape[-1] // heads
    cos, sin = rotary_angles(np.arange(length), size)

    def rotated(x: NDArray[np.float64]) -> NDArray[np.float64]:
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)

    future = np.triu(np.full((length, length), -np.inf), 1)
    for layer in range(layers):
        name = f"blk.{layer}"
        y = norm(x, f"{name}.attn_norm")
        q, k, v = (by_head(y @ w[f"{name}.attn_{each}.weight"].T) for each in "qkv")
        q, k = rotated(norm(q, f"{name}.attn_q_norm")), rotated(norm(k, f"{name}.attn_k_norm"))
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(size) + future
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = shares / shares.sum(axis=-1, keepdims=True) @ v
        x = x + mixed.swapaxes(1, 2).reshape(x.shape) @ w[f"{name}.attn_output.weight"].T
        y = norm(x, f"{name}.ffn_norm") @ w[f"{name}.ffn_up.weight"].T
        x = x + np.square(np.maximum(y, 0)) @ w[f"{name}.ffn_down.weight"].T
    logits: NDArray[np.float64] = norm(x, "output_norm") @ w["output.weight"].T
    return logits
