"""What `--mode auto` takes: the engine that trains the model sooner, by a rule that was measured.

The scalar engine steps a small model several times faster than torch does, but records it first,
and a recording grows with the model. `bench/choices/auto.py` times both over a grid of sizes; up to
MOST_PRODUCTS the scalar engine was ahead at every batch of up to MOST_ROWS rows, on two cores
(bench/results/choices/auto.json). Long documents need the attention over long contexts that torch is good
at, and a larger model than a recording holds.
Owns the rule and its words. Which options exist is config.py's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from nanochat.system import processes

__all__ = ["LINE_CORPORA", "MOST_PRODUCTS", "MOST_ROWS", "choose_engine", "products"]

# Multiplications of one text of block_size tokens, each of which becomes two recorded nodes.
MOST_PRODUCTS = 450_000
MOST_ROWS = 256  # of a step, the most that were measured; torch has all cores for more

# Registry corpora of short documents, one a line.
LINE_CORPORA = ("names", "names-makemore")


def products(options: Mapping[str, Any], vocab_size: int) -> int:
    """Multiplications of a model reading one text of block_size tokens."""
    width, block_size = options["n_embd"], options["block_size"]
    per_layer = 12 * width + block_size
    return int(block_size * width * (options["n_layer"] * per_layer + vocab_size))


def choose_engine(
    options: Mapping[str, Any],  # every training option, with the scalar engine's preset
    vocab_size: int = 0,  # 0: not known yet
) -> tuple[str, str]:
    """scalar or tensor, and why, in words for the terminal."""
    wanted = _of_tensor_alone(options)
    if wanted:
        return "tensor", f"only it has {wanted}"
    if options["numerics"] == "exact":
        return "scalar", "only it has numerics exact"
    short = _has_short_documents(options)
    rows = options["batch_size"] * options["grad_accum"]
    small = products(options, vocab_size) <= MOST_PRODUCTS and rows <= MOST_ROWS
    if short and small:
        return "scalar", "the faster engine for a small model of short lines"
    if importlib.util.find_spec("torch") is None:
        return "scalar", "torch is not installed"
    slow = "a model or batch this large" if short else "long documents"
    return "tensor", f"the faster engine for {slow}"


def _of_tensor_alone(options: Mapping[str, Any]) -> str:
    """The first option that was asked for and that the scalar engine lacks, or nothing."""
    if options["device"] in ("cuda", "mps"):
        return f"device {options['device']}"
    if options["dtype"] == "bfloat16":
        return "dtype bfloat16"
    if options["loss"] == "torch":
        return "loss torch"
    if options["optimizer"] == "muon":
        return "optimizer muon"
    if options["past_embeds"] > 0:
        return "past_embeds"
    if options["ngram_rows"] > 0:
        return "ngram_rows"
    if options["dropout"] > 0:
        return "dropout"
    if options["auto_batch"]:
        return "auto_batch"
    if options["compile"] == "on":
        return "compile"
    if processes.world() > 1:
        return "several processes"
    return ""


def _has_short_documents(options: Mapping[str, Any]) -> bool:
    documents = options["documents"]
    return documents == "line" or (documents == "auto" and options["data"] in LINE_CORPORA)
