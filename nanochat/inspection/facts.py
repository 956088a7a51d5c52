"""Everything that the page of `nanochat inspect` shows, as JSON.

Arrays are base64 of little-endian float64, or float32 where that holds the same numbers. Leaves out
how a browser shows them (page/).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.bpe import BpeTokenizer
from nanochat.data.special_tokens import plain_tokenizer
from nanochat.errors import UnsupportedOption
from nanochat.inspection.embeddings import nearest, plane
from nanochat.inspection.graph import ABOUT, group_of, operations, without_layer
from nanochat.inspection.importance import importance, is_quick
from nanochat.inspection.merges import merge_steps
from nanochat.inspection.trace import Trace
from nanochat.inspection.views import sources, view_words
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.share import start_offset
from nanochat.sampling.ngram import NgramEngine
from nanochat.system.wording import printable

__all__ = ["LIKELIEST", "arrays_of_attention", "facts", "likeliest", "packed"]

LIKELIEST = 10
NEIGHBOURS = 8


def facts(
    trace: Trace,
    *,
    run: str,
    step: int,
    arrays: bool = True,  # every array and weight with its gradient, not only those of attention
    attention: bool = True,  # the arrays of attention
    neurons: bool = True,  # the change of the loss without each of them
) -> dict[str, Any]:
    """Return the facts of a trace."""
    config, tokenizer, own = trace.config, trace.tokenizer, trace.trained.own
    plain = plain_tokenizer(tokenizer)
    left_out: dict[str, str] = {}
    if config.model_kind != "mini-gpt":
        left_out["attention"] = "the model has no attention"
    if own is not None:
        left_out["neurons"] = f"the model is that of {printable(own.path)}"
    result: dict[str, Any] = {
        "run": run, "step": step, "engine": config.mode, "dtype": config.dtype,
        "logit_softcap": config.logit_softcap, "output_rmsnorm": config.output_rmsnorm,
        "head_dim": config.head_dim if config.n_layer else 0,
        "mean": trace.mean,
        "tokens": trace.tokens.tolist(), "targets": trace.targets.tolist(),
        "losses": trace["losses"].tolist(),
        "vocabulary": [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)],
        "likeliest": likeliest(trace),
        "by_counts": None if trace.text.by_counts is None else trace.text.by_counts.tolist(),
        "share": {"scale": trace.text.share.scale, "offset": trace.text.share.offset,
                  "start": start_offset(tokenizer.vocab_size)},
        "network_losses": (-np.log(_chosen(trace))).tolist(),
        "model_file": None if own is None else printable(own.path),
        "lens": _or_reason(left_out, "lens", lambda: _lens(trace)),
        "importance": _or_reason(
            left_out, "importance", lambda: _changes(trace, neurons, left_out)
        ),
        "left_out": left_out,
        "embeddings": _embeddings(trace),
        "tokenizer": tokenizer.kind,
        "merges": (
            merge_steps(plain, trace.source) if isinstance(plain, BpeTokenizer) else None
        ),
        "operations": [
            {"name": o.name, "kind": o.kind, "inputs": o.inputs, "weight": o.weight, "line": o.line}
            for o in operations(config, trace, own)
        ],
        "about": _about(trace), "table_rows": _table_rows(trace), "sources": sources(trace),
        "views": view_words(trace),
        "arrays": {}, "gradients": {}, "weights": {}, "weight_gradients": {},
    }  # fmt: skip
    few = arrays_of_attention(trace) if attention else {}
    few |= {name: trace[name] for name in ("counts_share",) if name in trace}
    shown = trace if arrays else few
    result["arrays"] = {name: packed(array) for name, array in shown.items()}
    if arrays:
        result["gradients"] = {name: packed(a) for name, a in trace.gradients.items()}
        result["weights"] = {name: packed(a) for name, a in trace.weights.items()}
        result["weight_gradients"] = {n: packed(a) for n, a in trace.weight_gradients.items()}
    return result


def _about(trace: Trace) -> dict[str, dict[str, str]]:
    """Return what each array and weight is, and its section of the page."""
    arrays = {
        name: {"about": ABOUT.get(without_layer(name), ""), "group": group_of(name)}
        for name in trace
    }
    return arrays | {n: {"about": "Weight matrix", "group": "Weights"} for n in trace.weights}


def _table_rows(trace: Trace) -> list[list[tuple[str, int]]] | None:
    """Return the rows of `embed.tables` that each token adds up, as (table, row)."""
    if "embed.tables" not in trace:
        return None
    from nanochat.tensor.embeddings import EmbeddingTables  # the tensor engine alone has tables

    tables = EmbeddingTables.of(trace.config, trace.tokenizer.vocab_size)
    rows, offsets = tables.bags(trace.tokens[None], np.zeros((1, len(trace.tokens)), np.int64))
    return [
        [tables.table_and_row(row) for row in each.tolist()] for each in np.split(rows, offsets[1:])
    ]


def _or_reason(
    left_out: dict[str, str], view: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the facts of a view, or None with the reason in `left_out`."""
    try:
        return make()
    except UnsupportedOption as error:
        left_out[view] = str(error)
        return None


def _chosen(trace: Trace) -> NDArray[np.float64]:  # (tokens,)
    """Return the probability of each target by the network alone."""
    return trace["probabilities"][np.arange(len(trace.targets)), trace.targets]


def _lens(trace: Trace) -> dict[str, Any]:
    lens, targets = trace.logit_lens(), trace.targets
    return {
        "stages": list(lens.stages), "losses": lens.losses.tolist(),
        "top": lens.logits.argmax(axis=-1).tolist(),
        "contributions": lens.contributions[:, range(len(targets)), targets].tolist(),
        "means": lens.contributions.mean(axis=-1).tolist(),
    }  # fmt: skip


def arrays_of_attention(trace: Trace) -> dict[str, NDArray[np.float64]]:
    """Return the arrays that the view of attention shows."""
    return {name: array for name, array in trace.items() if ".attn." in name}


def _changes(trace: Trace, neurons: bool, left_out: dict[str, str]) -> dict[str, Any]:
    length = len(trace.tokens)
    passes = {"positions": length}
    if neurons and trace.trained.own is None:
        passes["neurons"] = trace.config.n_layer * 4 * trace.config.n_embd
    for kind, count in passes.items():
        if not is_quick(trace, count):
            left_out[kind] = (
                f"{count:,} passes over {length:,} tokens would take long; give a shorter text"
            )
    kept = passes.keys() - left_out
    changes = importance(trace, neurons="neurons" in kept, positions="positions" in kept)
    return {
        "heads": changes.heads.tolist(),
        "neurons": changes.neurons.tolist() if "neurons" in kept else None,
        "positions": changes.positions.tolist() if "positions" in kept else None,
    }  # fmt: skip


def likeliest(trace: Trace, count: int = LIKELIEST) -> list[list[dict[str, Any]]]:
    """Return for each token the likeliest next ones, with their probability by the model and by
    network and counts alone."""
    network, counts = trace["probabilities"], trace.trained.counts
    by_counts, mixed = None, network
    if counts is not None:
        by_counts = _counts_probabilities(counts, trace.tokens)
        share = trace["counts_share"][:, None]
        mixed = (1 - share) * network + share * by_counts
    result = []
    for row, probabilities in enumerate(mixed):
        order = np.argsort(-probabilities, kind="stable")[:count].tolist()
        result.append([
            {
                "token": token, "probability": float(probabilities[token]),
                "network": float(network[row, token]),
                "counts": None if by_counts is None else float(by_counts[row, token]),
            }
            for token in order
        ])  # fmt: skip
    return result


def _counts_probabilities(
    counts: KneserNey, tokens: NDArray[np.int64]
) -> NDArray[np.float64]:  # (tokens, vocab)
    decoder = NgramEngine(counts).open_decoder([[int(tokens[0])]])
    rows = [decoder.logits[0].astype(np.float64)]
    for token in tokens[1:].tolist():
        decoder.advance([token])
        rows.append(decoder.logits[0].astype(np.float64))
    logits = np.stack(rows)
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = exps / exps.sum(axis=1, keepdims=True)
    return result


def _embeddings(trace: Trace) -> dict[str, Any]:
    tokens = trace.tokenizer.vocab_size  # with counts, wte has one row more
    wte = trace.weights["wte"][:tokens].astype(np.float64)
    result: dict[str, Any] = {
        "plane": plane(wte).tolist(),
        "neighbours": nearest(wte, NEIGHBOURS),
        "positions": None,
    }
    if "wpe" in trace.weights:
        result["positions"] = plane(trace.weights["wpe"].astype(np.float64)).tolist()
    return result


def packed(array: NDArray[np.floating]) -> dict[str, Any]:
    """Return shape, type and base64 of an array."""
    wide = np.ascontiguousarray(array, dtype="<f8")
    narrow = wide.astype("<f4")
    exact = bool(np.array_equal(narrow.astype("<f8"), wide, equal_nan=True))
    raw = (narrow if exact else wide).tobytes()
    return {
        "shape": list(wide.shape), "type": "f4" if exact else "f8",
        "base64": base64.b64encode(raw).decode("ascii"),
    }  # fmt: skip
