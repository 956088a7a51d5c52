"""The two tables of options that do not go together.

UNSUPPORTED lists combinations that no engine or model supports. EFFECTS says where an option has an
effect: one that is given and has none is refused, because the user expects something that will not
happen. Every value in a row is valid alone. Each entry point builds a config, and each config
checks these tables before any work starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from nanochat import errors
from nanochat.config.option import as_text, shown

__all__ = [
    "DOWNLOADED",
    "EFFECTS",
    "EFFECTS_OF_CHAT",
    "EFFECTS_OF_EVAL",
    "EFFECTS_OF_SAMPLE",
    "IN_THE_PACKAGE",
    "OF_ENGINES",
    "OF_NETWORKS",
    "UNSUPPORTED",
    "Effect",
    "Rule",
    "check_data_dir",
    "check_effects",
    "check_has_network",
    "check_supported",
    "without_effect",
]

# The registry's corpora: the one of the package, and those that are downloaded.
IN_THE_PACKAGE = ("names",)
DOWNLOADED = ("names-makemore", "shakespeare")


class Rule(NamedTuple):
    """`owner` does not support `option` where `applies` is true of a config."""

    error: type[errors.UnsupportedOption]
    owner: str
    option: str
    way_out: str
    applies: Callable[[Any], bool]


# The options of networks and of their training, which counting alone does not read.
OF_NETWORKS = (
    "model_file", "n_layer", "n_head", "n_embd", "block_size", "activation", "positions",
    "prev_token_tables", "hash_embed_rows", "hash_embed_longest", "tie_lm_head", "input_rmsnorm",
    "output_rmsnorm", "qk_norm", "logit_softcap", "init_std", "zero_init", "dropout", "ngram_share",
    "batching", "steps", "batch_size", "grad_accum", "auto_batch", "optimizer", "lr", "matrix_lr",
    "head_lr", "lr_schedule", "warmup_ratio", "warmdown_ratio", "final_lr_frac", "schedule_points",
    "weight_decay", "beta1", "muon_momentum", "beta2", "eps", "grad_clip", "ema", "patience",
    "numerics", "loss", "eval_every", "eval_tokens", "checkpoint_every", "baseline", "record",
)  # fmt: skip

UNSUPPORTED: tuple[Rule, ...] = (
    Rule(errors.UnsupportedOption, "documents", "batching", "leave batching out",
         lambda c: c.documents == "chat" and c.model_kind != "ngram"
         and c.batching in ("windows", "documents")),
    Rule(errors.UnsupportedOption, "documents", "style", "leave style out",
         lambda c: c.documents == "chat" and c.style != "classic"),
    Rule(errors.UnsupportedOption, "model_kind", "mode", "leave it out",
         lambda c: c.model_kind == "ngram" and c.mode == "tensor"),
    Rule(errors.UnsupportedDevice, "model_kind", "device", "leave it out",
         lambda c: c.model_kind == "ngram" and c.device not in ("auto", "cpu")),
    Rule(errors.UnsupportedDtype, "model_kind", "dtype", "use dtype float64",
         lambda c: c.model_kind == "ngram" and c.dtype not in ("auto", "float64")),
    Rule(errors.UnsupportedOption, "model_kind", "compile", "leave it out",
         lambda c: c.model_kind == "ngram" and c.compile == "on"),
    Rule(errors.UnsupportedOption, "model_kind", "ngram_order", "use ngram_order auto",
         lambda c: c.model_kind == "ngram" and c.ngram_order == 0),
    Rule(errors.UnsupportedDevice, "mode", "device", "use device cpu or mode tensor",
         lambda c: c.mode == "scalar" and c.device in ("cuda", "mps")),
    Rule(errors.UnsupportedDtype, "mode", "dtype", "use dtype float64 or float32",
         lambda c: c.mode == "scalar" and c.dtype == "bfloat16"),
    Rule(errors.UnsupportedOptimizer, "mode", "optimizer", "use optimizer adamw or mode tensor",
         lambda c: c.mode == "scalar" and c.optimizer == "muon"),
    Rule(errors.UnsupportedOption, "mode", "dropout", "use dropout 0 or mode tensor",
         lambda c: c.mode == "scalar" and c.dropout > 0),
    Rule(errors.UnsupportedOption, "mode", "prev_token_tables",
         "use prev_token_tables 0 or mode tensor",
         lambda c: c.mode == "scalar" and c.prev_token_tables > 0),
    Rule(errors.UnsupportedOption, "mode", "hash_embed_rows",
         "use hash_embed_rows 0 or mode tensor",
         lambda c: c.mode == "scalar" and c.hash_embed_rows > 0),
    Rule(errors.UnsupportedOption, "mode", "auto_batch", "leave it out or use mode tensor",
         lambda c: c.mode == "scalar" and c.auto_batch),
    Rule(errors.UnsupportedOption, "mode", "loss", "leave it out or use mode tensor",
         lambda c: c.mode == "scalar" and c.loss == "torch"),
    Rule(errors.UnsupportedOption, "mode", "compile", "leave it out or use mode tensor",
         lambda c: c.mode == "scalar" and c.compile == "on"),
    Rule(errors.UnsupportedOption, "mode", "numerics", "leave it out or use mode scalar",
         lambda c: c.mode == "tensor" and c.numerics == "exact"),
    Rule(errors.UnsupportedOption, "eval_every", "patience",
         "leave eval_every out, or use patience 0",
         lambda c: c.eval_every == 0 and c.patience > 0),
    Rule(errors.UnsupportedOption, "val_fraction", "patience",
         "use a val_fraction above 0, or patience 0",
         lambda c: c.val_fraction == 0 and c.patience > 0),
    Rule(errors.UnsupportedDtype, "device", "dtype", "use dtype float32",
         lambda c: c.device == "mps" and c.dtype == "float64"),
    Rule(errors.UnsupportedOption, "device", "loss", "use loss torch",
         lambda c: c.device == "mps" and c.loss == "fused"),
    Rule(errors.UnsupportedOption, "model_kind", "model_file",
         "leave it out or use model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.model_file is not None),
    Rule(errors.UnsupportedOption, "model_kind", "n_layer", "use n_layer 0 or model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.n_layer != 0),
    Rule(errors.UnsupportedOption, "model_kind", "n_head",
         "leave it out or use model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.n_head != 1),
    Rule(errors.UnsupportedOptimizer, "n_layer", "optimizer", "use optimizer adamw",
         lambda c: c.n_layer == 0 and c.optimizer == "muon"),
    Rule(errors.UnsupportedActivation, "model_kind", "activation",
         "leave it out or use model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.activation != "relu"),
    Rule(errors.UnsupportedOption, "model_kind", "positions",
         "leave it out or use model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.positions != "learned"),
    Rule(errors.UnsupportedOption, "model_kind", "qk_norm",
         "leave it out or use model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.qk_norm),
    Rule(errors.UnsupportedOption, "model_kind", "prev_token_tables",
         "use prev_token_tables 0 or model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.prev_token_tables > 0),
    Rule(errors.UnsupportedOption, "model_kind", "hash_embed_rows",
         "use hash_embed_rows 0 or model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.hash_embed_rows > 0),
    Rule(errors.UnsupportedOption, "model_kind", "ngram_order",
         "use ngram_order 0 or model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.ngram_order > 0),
    Rule(errors.UnsupportedOption, "model_kind", "dropout",
         "use dropout 0 or model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.dropout > 0),
)  # fmt: skip


class Effect(NamedTuple):
    """`options` have an effect only where `applies` is true of a config."""

    options: tuple[str, ...]
    owner: str  # the option that decides it
    needs: str  # the values of the owner for which they have an effect, in words
    applies: Callable[[Any], bool]
    way_out: str = ""  # next to leaving the option out; empty: use what it needs


_OF_DRAWS = Effect(("top_k", "top_p"), "temperature", "temperature above 0",
                   lambda c: c.temperature > 0)  # fmt: skip


def _is_one_of(source: str, names: tuple[str, ...]) -> bool:
    """Return whether a source is one of these registry names, which a path of that name hides."""
    name = source.removeprefix("registry:")
    return name in names and (name != source or not os.path.lexists(source))


def _downloads(data: tuple[str, ...] | None) -> bool:
    return any(_is_one_of(source, DOWNLOADED) for source in data or ())


def _may_have_records(data: tuple[str, ...] | None) -> bool:
    registered = (*IN_THE_PACKAGE, *DOWNLOADED)
    return any(not _is_one_of(source, registered) for source in data or ())


OF_ENGINES: tuple[Effect, ...] = (
    Effect(("deterministic", "compile", "loss"), "mode", "mode tensor",
           lambda c: c.mode == "tensor"),
    Effect(("numerics",), "mode", "mode scalar", lambda c: c.mode == "scalar"),
)  # fmt: skip

_DOWNLOADED_DATA = f"{' or '.join(DOWNLOADED)} as data"
_RECORDS = "files of records as data"

EFFECTS: tuple[Effect, ...] = (
    Effect(OF_NETWORKS, "model_kind", "model_kind mini-gpt or bigram",
           lambda c: c.model_kind != "ngram"),
    Effect(("compile", "deterministic"), "model_kind", "model_kind mini-gpt or bigram",
           lambda c: c.model_kind != "ngram"),
    *OF_ENGINES,
    Effect(("vocab_size", "bpe_pattern"), "tokenizer", "tokenizer bpe",
           lambda c: c.tokenizer == "bpe"),
    Effect(("text_column",), "data", _RECORDS, lambda c: _may_have_records(c.data)),
    Effect(("data_dir",), "data", _DOWNLOADED_DATA, lambda c: _downloads(c.data)),
    Effect(("hash_embed_longest",), "hash_embed_rows", "hash_embed_rows above 0",
           lambda c: c.hash_embed_rows > 0),
    Effect(("ngram_share",), "ngram_order", "an ngram_order other than 0",
           lambda c: c.ngram_order != 0),
    Effect(("head_lr",), "tie_lm_head", "tie_lm_head false", lambda c: not c.tie_lm_head),
    Effect(("muon_momentum",), "optimizer", "optimizer muon", lambda c: c.optimizer == "muon"),
    Effect(("beta2", "eps"), "optimizer", "optimizer adamw or muon",
           lambda c: c.optimizer != "sgd"),
    Effect(("warmdown_ratio", "final_lr_frac"), "lr_schedule",
           "lr_schedule linear, sqrt or cosine", lambda c: c.lr_schedule != "constant"),
    Effect(("lr_schedule", "final_lr_frac"), "warmdown_ratio", "warmdown_ratio above 0",
           lambda c: c.warmdown_ratio > 0 or c.lr_schedule == "constant"),
    Effect(("eval_tokens", "baseline"), "val_fraction", "val_fraction above 0",
           lambda c: c.val_fraction > 0),
    Effect(("max_new_tokens", "temperature", "top_k", "top_p", "stop"), "num_samples",
           "num_samples above 0", lambda c: c.num_samples > 0),
    _OF_DRAWS,
)  # fmt: skip

EFFECTS_OF_SAMPLE: tuple[Effect, ...] = (
    _OF_DRAWS,
    Effect(("mode", "device", "dtype", "threads", "style_weight", "model_file"), "from_counts",
           "from_counts false", lambda c: not c.from_counts),
    Effect(("data_dir",), "report_copies", "report_copies above 0 or from_counts",
           lambda c: c.report_copies > 0 or c.from_counts),
)  # fmt: skip

EFFECTS_OF_CHAT: tuple[Effect, ...] = (_OF_DRAWS,)

EFFECTS_OF_EVAL: tuple[Effect, ...] = (
    Effect(("documents", "separator", "text_column"), "data", "data", lambda c: c.data is not None,
           "name the text with data"),
    Effect(("text_column",), "data", _RECORDS,
           lambda c: c.data is None or _may_have_records(c.data)),
    Effect(("data_dir",), "data", _DOWNLOADED_DATA,
           lambda c: c.data is None or c.baselines or _downloads(c.data)),
    Effect(("batch_size",), "adapt", "adapt false", lambda c: not c.adapt),
)  # fmt: skip


def without_effect(config: Any, effects: tuple[Effect, ...] = EFFECTS) -> frozenset[str]:
    """Return the options that change nothing under the other values of a config."""
    return frozenset(
        name for effect in effects if not effect.applies(config) for name in effect.options
    )


def check_effects(
    config: Any,
    asked: Collection[str],  # the options that the user gave
    effects: tuple[Effect, ...] = EFFECTS,
) -> None:
    """Raise UnsupportedOption for an option that was asked for and has no effect.

    An engine that mode auto has chosen refuses nothing: the text may choose the other one.
    """
    for effect in effects:
        if effect.applies(config) or (effect.owner == "mode" and "mode" not in asked):
            continue
        for name in effect.options:
            if name in asked:
                value = shown(getattr(config, effect.owner))
                raise errors.UnsupportedOption(
                    f"{name} needs {effect.needs}, got {effect.owner} {value}; leave it out or"
                    f" {effect.way_out or f'use {effect.needs}'}"
                )


def check_data_dir(data: tuple[str, ...]) -> None:
    """Raise UnsupportedOption for a data_dir that was given where a run's text needs none."""
    if not _downloads(data):
        raise errors.UnsupportedOption(
            f"data_dir needs {_DOWNLOADED_DATA}, got a run with data {shown(data)}; leave it out"
        )


def check_has_network(config: Any, asked: Collection[str]) -> None:
    """Raise UnsupportedOption for an option of networks where counts predict alone."""
    if config.model_kind != "ngram":
        return
    for name in OF_NETWORKS:
        if name in asked:
            raise errors.UnsupportedOption(
                f"model_kind ngram does not support {name} {as_text(getattr(config, name))};"
                " leave it out or use model_kind mini-gpt"
            )


def check_supported(config: Any) -> None:
    """Raise the typed error of the first row of UNSUPPORTED that applies to the config."""
    for rule in UNSUPPORTED:
        if rule.applies(config):
            raise rule.error(
                f"{rule.owner} {getattr(config, rule.owner)} does not support {rule.option}"
                f" {as_text(getattr(config, rule.option))}; {rule.way_out}"
            )
