"""The parameters of each model, their shapes and their initial values, for every engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat import philox
from nanochat.config.options import TrainConfig
from nanochat.philox import Stream

__all__ = [
    "GROUPS",
    "RMSNORM_EPS",
    "ROPE_BASE",
    "Changes",
    "Spec",
    "draw_matrix",
    "initial_weights",
    "output_size",
    "parameter_specs",
    "rotary_angles",
    "table_entries",
]

GROUPS = ("embedding", "matrix", "head")
RMSNORM_EPS = 1e-5  # as microgpt
ROPE_BASE = 10000.0  # Su et al. 2021

# The shapes of matrices that a model file adds or replaces; None: it drops one.
Changes = Mapping[str, tuple[int, int] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One parameter matrix, by microgpt's name."""

    name: str
    shape: tuple[int, int]  # (out, in)
    std: float
    group: str  # one of GROUPS


def output_size(config: TrainConfig, vocab_size: int) -> int:
    """Return the outputs of the head, and the rows of the embeddings by token.

    With counted n-grams there is one output more than tokens, the last: the share of the counts.
    """
    assert config.model_kind != "ngram"  # it has no head
    return vocab_size + (1 if config.ngram_order else 0)


def parameter_specs(
    config: TrainConfig,
    vocab_size: int,
    changes: Changes | None = None,  # of the config's model file; needed if it has one
) -> list[Spec]:
    """Return the parameters of the config's model, in microgpt's order: wte, wpe, lm_head, layers.

    wte<k> embeds the token k places earlier, and wte_ngram embeds n-grams by their hash; these
    tables follow wte, in this order. Counted n-grams alone have no parameters. A new matrix of a
    layer follows the others of that layer, and one of no layer precedes the layers; new ones are
    in the order of their names.
    """
    assert config.model_file is None or changes is not None  # the file is not run here
    if config.model_kind == "ngram":
        return []
    hidden, outputs = config.n_embd, output_size(config, vocab_size)

    def spec(name: str, rows: int, columns: int, group: str) -> Spec:
        ends_branch = name.endswith(("attn_wo", "mlp_fc2"))
        std = 0.0 if config.zero_init and ends_branch else config.init_std
        return Spec(name=name, shape=(rows, columns), std=std, group=group)

    names = ["wte", *(f"wte{k}" for k in range(1, config.prev_token_tables + 1))]
    specs = [spec(name, outputs, hidden, "embedding") for name in names]
    if config.hash_embed_rows:
        specs.append(spec("wte_ngram", config.hash_embed_rows, hidden, "embedding"))
    if config.model_kind == "mini-gpt" and config.positions == "learned":
        specs.append(spec("wpe", config.block_size, hidden, "embedding"))
    if not config.tie_lm_head:
        specs.append(spec("lm_head", outputs, hidden, "head"))
    # All processes, and a resumed run, need one order, whichever that of the user's dict is.
    square, own = (hidden, hidden), dict(sorted((changes or {}).items()))
    of_no_layer = {name: shape for name, shape in own.items() if "." not in name}
    specs += [spec(name, *shape, "matrix") for name, shape in of_no_layer.items() if shape]
    for i in range(config.n_layer if config.model_kind == "mini-gpt" else 0):
        prefix = f"layer{i}."
        shapes: dict[str, tuple[int, int] | None] = {
            **{f"{prefix}attn_{part}": square for part in ("wq", "wk", "wv", "wo")},
            f"{prefix}mlp_fc1": (4 * hidden, hidden),
            f"{prefix}mlp_fc2": (hidden, 4 * hidden),
            **{name: shape for name, shape in own.items() if name.startswith(prefix)},
        }
        specs += [spec(name, *shape, "matrix") for name, shape in shapes.items() if shape]
    return specs


def table_entries(config: TrainConfig, vocab_size: int, changes: Changes | None = None) -> int:
    """Return how many of the parameters are looked up and never multiplied.

    They are the rows of the embeddings by token, previous token, n-gram and position. A token
    embedding that is tied to the output head is multiplied too, so it does not count.
    """
    return sum(
        spec.shape[0] * spec.shape[1]
        for spec in parameter_specs(config, vocab_size, changes)
        if spec.group == "embedding" and not (spec.name == "wte" and config.tie_lm_head)
    )


def initial_weights(
    config: TrainConfig, vocab_size: int, changes: Changes | None = None
) -> dict[str, NDArray[np.float64]]:
    """Return N(0, std) draws in float64; each matrix depends on the seed and its name alone."""
    specs = parameter_specs(config, vocab_size, changes)
    return {spec.name: draw_matrix(spec, config.seed) for spec in specs}


def draw_matrix(spec: Spec, seed: int) -> NDArray[np.float64]:
    """Return the initial values of one matrix."""
    rows, columns = spec.shape
    draws = philox.normals(seed, Stream.INIT, philox.item_of_name(spec.name), rows * columns)
    return (spec.std * draws).reshape(spec.shape)


def rotary_angles(
    positions: NDArray[np.int64], head_dim: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return cos and sin of the rotary embedding, each (*positions.shape, head_dim / 2).

    A head is rotated in halves: y₁ = x₁·cos + x₂·sin, y₂ = x₂·cos − x₁·sin.
    """
    half = head_dim // 2
    frequencies = ROPE_BASE ** (-np.arange(half, dtype=np.float64) / half)
    angles = positions[..., None].astype(np.float64) * frequencies
    return np.cos(angles), np.sin(angles)
