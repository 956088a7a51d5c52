"""How each named array is computed: its operation, its operands, and the line that computes it.

The page works out every formula and every gradient, term by term, from these records. The lines are
found in the text of the model, where each name is given to `see`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from nanochat.config.options import TrainConfig
from nanochat.inspection.own_code import OwnCode
from nanochat.model.model_file import ModelFile

__all__ = ["ABOUT", "Operation", "group_of", "operations", "source_line", "without_layer"]

Add = Callable[..., str]

PACKAGE = Path(__file__).parent.parent
SOURCES = {"scalar": ("scalar/minigpt.py", "scalar/bigram.py"), "tensor": ("tensor/model.py",)}
TRACES = {"scalar": "scalar/trace.py", "tensor": "tensor/trace.py"}

# What an array is, without its layer.
ABOUT = {
    "embed.token": "Embedding of each token",
    "embed.position": "Embedding of each position",
    "embed.tables": "Embeddings of the token, earlier tokens and n-grams, added",
    "embed.sum": "Token and position, added",
    "embed.norm": "Embedding, normalized",
    "attn.norm": "Residual stream, normalized",
    "attn.q": "Queries",
    "attn.k": "Keys",
    "attn.v": "Values",
    "attn.q_rotated": "Queries, turned by their position",
    "attn.k_rotated": "Keys, turned by their position",
    "attn.q_norm": "Queries, normalized head by head",
    "attn.k_norm": "Keys, normalized head by head",
    "attn.scores": "Scores: query · key / √head_dim",
    "attn.weights": "Attention weights",
    "attn.mixed": "Mixed values",
    "attn.out": "What attention adds",
    "attn.residual": "Residual stream after attention",
    "mlp.norm": "Residual stream, normalized",
    "mlp.hidden": "MLP before its activation",
    "mlp.active": "MLP after its activation",
    "mlp.out": "What the MLP adds",
    "mlp.residual": "Residual stream after the MLP",
    "output.norm": "Residual stream, normalized for the head",
    "logits_uncapped": "Logits before the cap",
    "logits": "Logits",
    "probabilities": "Probabilities of the network",
    "counts_share": "Share of the counts",
    "losses": "Loss of each target, in nats",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One array: output[...] = kind(inputs, weight).

    Kinds, with t a token, i and j columns, h a head, q a query's token and k a key's:

        lookup       y[t,i] = W[id[t],i], where id is the token or, of wpe, the position
        tables       y[t,i] = sum of the rows of all tables that token t looks up
        add          y = a + b
        rmsnorm      y[t,i] = x[t,i] · (mean of x[t,·]² + 1e-5)^-0.5, over `width` columns each
        linear       y[t,i] = Σ_j W[i,j] · x[t,j]
        rotate       each head's pairs turned by the angle of the position
        scores       y[h,q,k] = Σ_j query[q,j] · key[k,j] / √head_dim, j over the head's columns
        softmax      y = exp(x) / Σ exp(x), over the last dimension
        mix          y[q,i] = Σ_k weights[h,q,k] · v[k,i], h the head of column i
        relu, relu2  y = max(x, 0), and its square
        cap          y = cap · tanh(x / cap)
        share        y[t] = sigmoid(scale · gate + offset), gate = x[t,last] + start − log Σ exp(x)
        nats         y[t] = −log p[t,target]
        mixed_nats   y[t] = −log((1 − s[t]) · p[t,target] + s[t] · counts[t])
        own          computed by a model file; it has no inputs, because its formula is not known
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    weight: str | None = None
    line: tuple[str, int] = field(default=("", 0))  # file in the package or of the user, its line


def without_layer(name: str) -> str:
    return name.partition(".")[2] if name.startswith("layer") else name


def group_of(name: str) -> str:
    """Return the part of the model that an array belongs to."""
    found = re.match(r"layer(\d+)\.(attn|mlp)", name)
    if found is not None:
        return f"Layer {found[1]}: {'attention' if found[2] == 'attn' else 'MLP'}"
    return "Embedding" if name.startswith("embed") else "Output"


def operations(
    config: TrainConfig,
    names: Collection[str],
    own: ModelFile | None = None,  # of the config
) -> list[Operation]:
    """Return one operation per name, in the order of the computation.

    The names are those of a trace; the weights have the names of the checkpoint.
    """
    built_in = _built_in(config, names)
    if own is None:
        assert len(built_in) == len(names)
        return built_in
    code, by_name = OwnCode(own, config.mode), {each.name: each for each in built_in}
    found = []
    for name in names:
        each = by_name.get(name)
        is_known = each is not None and all(operand in names for operand in each.inputs)
        line = code.line_of(name, is_known=is_known)
        if line is not None:
            each = Operation(name=name, kind="own", inputs=(), line=line)
        assert each is not None
        found.append(each)
    return found


def _built_in(config: TrainConfig, names: Collection[str]) -> list[Operation]:
    """Return the operations of the built-in model, of these names."""
    known = set(names)
    found: list[Operation] = []

    def add(name: str, kind: str, *inputs: str, weight: str | None = None) -> str:
        if name in known:
            line = source_line(config.mode, name)
            found.append(Operation(name=name, kind=kind, inputs=inputs, weight=weight, line=line))
        return name

    x = _embedding(config, known, add)
    for layer in range(config.n_layer if config.model_kind == "mini-gpt" else 0):
        x = _block(config, f"layer{layer}.", x, add)
    if config.output_rmsnorm:
        x = add("output.norm", "rmsnorm", x)
    head = "wte" if config.tie_lm_head else "lm_head"
    if config.logit_softcap:
        uncapped = add("logits_uncapped", "linear", x, weight=head)
        logits = add("logits", "cap", uncapped)
    else:
        logits = add("logits", "linear", x, weight=head)
    probabilities = add("probabilities", "softmax", logits)
    if config.ngram_order:
        share = add("counts_share", "share", logits)
        add("losses", "mixed_nats", probabilities, share)
    else:
        add("losses", "nats", probabilities)
    return found


def _embedding(config: TrainConfig, known: set[str], add: Add) -> str:
    if "embed.tables" in known:
        x = add("embed.tables", "tables", weight="wte")
    else:
        x = add("embed.token", "lookup", weight="wte")
    if "embed.position" in known:
        position = add("embed.position", "lookup", weight="wpe")
        x = add("embed.sum", "add", x, position)
    return add("embed.norm", "rmsnorm", x) if config.input_rmsnorm else x


def _block(config: TrainConfig, layer: str, x: str, add: Add) -> str:
    def projected(name: str) -> str:
        y = add(f"{layer}attn.{name}", "linear", norm, weight=f"{layer}attn_w{name}")
        if name == "v":
            return y
        if config.positions == "rope":
            y = add(f"{y}_rotated", "rotate", y)
        return add(f"{layer}attn.{name}_norm", "rmsnorm", y) if config.qk_norm else y

    norm = add(f"{layer}attn.norm", "rmsnorm", x)
    q, k, v = projected("q"), projected("k"), projected("v")
    scores = add(f"{layer}attn.scores", "scores", q, k)
    weights = add(f"{layer}attn.weights", "softmax", scores)
    mixed = add(f"{layer}attn.mixed", "mix", weights, v)
    out = add(f"{layer}attn.out", "linear", mixed, weight=f"{layer}attn_wo")
    x = add(f"{layer}attn.residual", "add", out, x)
    norm = add(f"{layer}mlp.norm", "rmsnorm", x)
    hidden = add(f"{layer}mlp.hidden", "linear", norm, weight=f"{layer}mlp_fc1")
    active = add(f"{layer}mlp.active", config.activation, hidden)
    out = add(f"{layer}mlp.out", "linear", active, weight=f"{layer}mlp_fc2")
    return add(f"{layer}mlp.residual", "add", out, x)


@cache
def source_line(mode: str, name: str) -> tuple[str, int]:
    """Return the file of the package, and its line, that gives a named array to `see`."""
    short = without_layer(name)
    for suffix in ("_rotated", "_norm"):
        if short.startswith("attn.") and short.endswith(suffix):
            short = "{name}" + suffix
    for file in (*SOURCES[mode], TRACES[mode]):
        lines = (PACKAGE / file).read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if f'"{short}"' in line and ("see(" in line or "seen(" in line):
                return file, number
    raise AssertionError(f"no model gives {name} to see")
