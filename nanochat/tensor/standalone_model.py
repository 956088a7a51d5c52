"""The model of a nanochat checkpoint as a plain PyTorch module, in this one file.

The file needs torch and the folder of a checkpoint, or of an export to torch; nanochat is not
needed. As `model.py` in such a folder, it loads the model in it:

    import torch
    import model

    gpt = model.load()
    logits = gpt(torch.tensor([[0, 5, 13]]))  # (rows, length) ids -> (rows, length, vocabulary)

If the model is mixed with counted n-grams, this is its network alone, without them. Each row is one
text. Token 0 (BOS) opens and ends a document; `tokenizer.json` maps the other ids
to text. The parameters have the names of the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GPT", "Block", "load"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}
CHOICES = {
    "model_kind": ("bigram", "mini-gpt"),
    "positions": ("learned", "rope"),
    "activation": tuple(ACTIVATIONS),
}
EARLIER_NAMES = {
    "past_embeds": "prev_token_tables",
    "ngram_rows": "hash_embed_rows",
    "ngram_longest": "hash_embed_longest",
}
EXPORTED = "model.safetensors"
HASH_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64  # int64 products are modulo 2**64, as the hash needs


def matrix(rows: int, columns: int) -> nn.Parameter:
    """Return a parameter of zeros; `load` replaces it by the values of the checkpoint."""
    return nn.Parameter(torch.zeros(rows, columns))


def rmsnorm(x: Tensor) -> Tensor:
    """Return x divided by its root mean square over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), eps=1e-5)


def rotate(x: Tensor) -> Tensor:  # (rows, heads, length, head_dim)
    """Turn each pair (x[i], x[i + half]) by the angle position * 10000 ** (-i / half)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Block(nn.Module):
    """One transformer block: causal self-attention, then an MLP. Each adds its result to x."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config, size = config, config["n_embd"]
        self.attn_wq = matrix(size, size)
        self.attn_wk = matrix(size, size)
        self.attn_wv = matrix(size, size)
        self.attn_wo = matrix(size, size)
        self.mlp_fc1 = matrix(4 * size, size)
        self.mlp_fc2 = matrix(size, 4 * size)

    def forward(self, x: Tensor) -> Tensor:  # (rows, length, n_embd)
        x = x + self.attention(rmsnorm(x))
        return x + self.mlp(rmsnorm(x))

    def attention(self, x: Tensor) -> Tensor:
        rows, length, size = x.shape

        def by_head(weight: Tensor) -> Tensor:  # (rows, heads, length, head_dim)
            return F.linear(x, weight).view(rows, length, self.config["n_head"], -1).transpose(1, 2)

        q, k, v = by_head(self.attn_wq), by_head(self.attn_wk), by_head(self.attn_wv)
        if self.config["positions"] == "rope":
            q, k = rotate(q), rotate(k)
        if self.config["qk_norm"]:
            q, k = rmsnorm(q), rmsnorm(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.linear(mixed.transpose(1, 2).reshape(rows, length, size), self.attn_wo)

    def mlp(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.config["activation"]]
        return F.linear(activation(F.linear(x, self.mlp_fc1)), self.mlp_fc2)


class GPT(nn.Module):
    """Embedding, blocks and output head. A bigram is the same without positions and blocks."""

    def __init__(self, config: Mapping[str, Any], vocab_size: int) -> None:
        super().__init__()
        for name, known in CHOICES.items():
            if config[name] not in known:
                known_text = ", ".join(map(str, known))
                raise ValueError(f"{name} must be one of {known_text}, got {config[name]}")
        self.config, size = config, config["n_embd"]
        self.wte = matrix(vocab_size, size)  # word token embedding
        for k in range(1, config["prev_token_tables"] + 1):
            self.register_parameter(f"wte{k}", matrix(vocab_size, size))  # of the token k earlier
        if config["hash_embed_rows"]:
            self.wte_ngram = matrix(config["hash_embed_rows"], size)
        if config["model_kind"] == "mini-gpt" and config["positions"] == "learned":
            self.wpe = matrix(config["block_size"], size)  # word position embedding
        if not config["tie_lm_head"]:
            self.lm_head = matrix(vocab_size, size)
        for layer in range(config["n_layer"]):
            self.add_module(f"layer{layer}", Block(config))

    def forward(self, tokens: Tensor) -> Tensor:  # (rows, length) int64
        """Return the logits of the token after each one, (rows, length, vocabulary)."""
        if tokens.shape[1] > self.config["block_size"]:
            raise ValueError(
                f"rows must have at most block_size {self.config['block_size']} tokens, got"
                f" {tokens.shape[1]}; pass the last ones"
            )
        x = self.embed(tokens)
        for layer in range(self.config["n_layer"]):
            x = getattr(self, f"layer{layer}")(x)
        if self.config["output_rmsnorm"]:
            x = rmsnorm(x)
        logits = F.linear(x, self.wte if self.config["tie_lm_head"] else self.lm_head)
        if self.config["ngram_order"]:
            logits = logits[..., :-1]  # without the share of the counted n-grams
        cap = self.config["logit_softcap"]
        return cap * torch.tanh(logits / cap) if cap else logits

    def embed(self, tokens: Tensor) -> Tensor:  # (rows, length) -> (rows, length, n_embd)
        column = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(1)
        x = F.embedding(tokens, self.wte)
        for k in range(1, self.config["prev_token_tables"] + 1):
            earlier = F.embedding(tokens.roll(k, dims=1), getattr(self, f"wte{k}"))
            x = x + earlier * (column >= k)  # the first k tokens have none k places earlier
        if rows := self.config["hash_embed_rows"]:
            key = (tokens + 1) * HASH_MULTIPLIER
            for k in range(1, self.config["hash_embed_longest"]):  # an n-gram of k + 1 tokens
                key = (key + tokens.roll(k, dims=1) + 1) * HASH_MULTIPLIER
                row = (((key >> 32) & 0xFFFFFFFF) * rows) >> 32
                x = x + F.embedding(row, self.wte_ngram) * (column >= k)
        if hasattr(self, "wpe"):
            x = x + self.wpe[: tokens.shape[1]]
        return rmsnorm(x) if self.config["input_rmsnorm"] else x


DTYPES = {"F64": torch.float64, "F32": torch.float32, "I64": torch.int64, "U32": torch.uint32}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file: a length, a header in JSON, and the bytes."""
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        values = torch.frombuffer(raw[first:last], dtype=DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def load(folder: str | Path | None = None) -> GPT:
    """Return the model of a checkpoint or an export, by default that in the folder of this file.

    Its parameters have the dtype of the saved weights.
    """
    folder = Path(__file__).parent if folder is None else Path(folder)
    saved_config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {"ngram_order": 0, "output_rmsnorm": False}  # as before these options
    config.update({EARLIER_NAMES.get(name, name): each for name, each in saved_config.items()})
    if (folder / EXPORTED).exists():
        weights = read_tensors(folder / EXPORTED)
    else:
        weights = read_tensors(folder / "weights.safetensors")
        if config.get("ema"):  # the average of the weights is what nanochat samples and evaluates
            saved = read_tensors(folder / "optimizer.safetensors")
            weights = {name: saved[f"average.{name}"] for name in weights}
    model = GPT(config, vocab_size=len(weights["wte"]))
    model.load_state_dict(weights, assign=True)
    return model.eval()
