"""The one table of option combinations that no engine or model supports.

Every value in a row is valid alone. Each entry point builds a config, and each config checks this
table before any work starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nanochat import errors
from nanochat.config.option import as_text

__all__ = ["OF_NETWORKS", "UNSUPPORTED", "Rule", "check_has_network", "check_supported"]


class Rule(NamedTuple):
    """`owner` does not support `option` where `applies` is true of a config."""

    error: type[errors.UnsupportedOption]
    owner: str
    option: str
    way_out: str
    applies: Callable[[Any], bool]


# The options of networks and of their training, which counting alone does not read.
OF_NETWORKS = (
    "n_layer", "n_head", "n_embd", "block_size", "activation", "positions", "prev_token_tables",
    "hash_embed_rows", "hash_embed_longest", "tie_lm_head", "input_rmsnorm", "qk_norm",
    "logit_softcap", "init_std", "zero_init", "dropout", "ngram_share", "batching", "steps",
    "batch_size", "grad_accum", "auto_batch", "optimizer", "lr", "matrix_lr", "head_lr",
    "lr_schedule", "warmup_ratio", "warmdown_ratio", "final_lr_frac", "schedule_points",
    "weight_decay", "beta1", "muon_momentum", "beta2", "eps", "grad_clip", "ema", "patience",
    "numerics", "loss", "eval_every", "eval_tokens", "checkpoint_every", "baseline",
)  # fmt: skip

UNSUPPORTED: tuple[Rule, ...] = (
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
    Rule(errors.UnsupportedOption, "mode", "numerics", "use numerics fast or mode scalar",
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
    Rule(errors.UnsupportedOption, "model_kind", "n_layer", "use n_layer 0 or model_kind mini-gpt",
         lambda c: c.model_kind == "bigram" and c.n_layer != 0),
    Rule(errors.UnsupportedOption, "model_kind", "n_head", "use n_head 1 or model_kind mini-gpt",
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


def check_has_network(config: Any, defaults: Mapping[str, Any]) -> None:
    """Raise UnsupportedOption for an option of networks where counts predict alone.

    An option that has its default under the preset is not refused.
    """
    if config.model_kind != "ngram":
        return
    for name in OF_NETWORKS:
        if getattr(config, name) != defaults[name]:
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
