"""The engine that `--mode auto` chooses: the faster one, by a rule that was measured.

The scalar engine steps a small model several times faster than torch, but records it first, and a
recording grows with the model. `bench/choices/auto.py` times both engines over a grid of sizes. On
two cores the scalar engine was faster for every model of up to MOST_PRODUCTS multiplications and
every batch of up to MOST_ROWS rows (bench/results/choices/auto.json). Long documents need a larger
model than a recording holds, and attention over long contexts, which is faster in torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from nanochat.config.unsupported import UNSUPPORTED
from nanochat.system import processes

__all__ = ["LINE_CORPORA", "MOST_PRODUCTS", "MOST_ROWS", "choose_engine", "products"]

# Multiplications for one text of block_size tokens; each becomes two recorded nodes.
MOST_PRODUCTS = 450_000
MOST_ROWS = 256  # rows per step, the most that were measured; torch uses all cores for more

# Registry corpora of short documents, one per line.
LINE_CORPORA = ("names", "names-makemore")


def products(options: Mapping[str, Any], vocab_size: int) -> int:
    """Return the multiplications of a model that reads one text of block_size tokens."""
    n_embd, block_size = options["n_embd"], options["block_size"]
    per_layer = 12 * n_embd + block_size
    outputs = vocab_size + (1 if options["ngram_order"] else 0)  # the share of the counts
    return int(block_size * n_embd * (options["n_layer"] * per_layer + outputs))


def choose_engine(
    options: Mapping[str, Any],  # every training option, with the scalar engine's preset
    vocab_size: int = 0,  # 0: not known yet
) -> tuple[str, str]:
    """Return `scalar` or `tensor`, and the reason in words for the terminal."""
    if options["model_kind"] == "ngram":
        return "scalar", "counting needs no torch"
    needed = _needs_tensor(options)
    if needed:
        return "tensor", f"only this engine supports {needed}"
    if options["numerics"] == "exact":
        return "scalar", "only this engine supports numerics exact"
    short = _has_short_documents(options)
    rows = options["batch_size"] * options["grad_accum"]
    small = products(options, vocab_size) <= MOST_PRODUCTS and rows <= MOST_ROWS
    if short and small:
        return "scalar", "the faster engine for a small model of short lines"
    if importlib.util.find_spec("torch") is None:
        return "scalar", "torch is not installed"
    slow = "a model or batch this large" if short else "long documents"
    return "tensor", f"the faster engine for {slow}"


def _needs_tensor(options: Mapping[str, Any]) -> str:
    """Return the first given option that the scalar engine does not support, or nothing."""
    scalar = SimpleNamespace(**{**options, "mode": "scalar"})
    for rule in UNSUPPORTED:
        if rule.owner == "mode" and rule.applies(scalar):
            value = options[rule.option]
            return f"{rule.option} {value}" if isinstance(value, str) else rule.option
    return "several processes" if processes.world() > 1 else ""


def _has_short_documents(options: Mapping[str, Any]) -> bool:
    documents = options["documents"]
    return documents == "line" or (
        documents == "auto" and set(options["data"]) <= set(LINE_CORPORA)
    )
