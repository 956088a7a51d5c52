"""What no engine or model can do: the one table of combinations that are refused before any work.

Each option of a row is right by itself. Every entry point builds a config, and so meets the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanochat import errors

__all__ = ["UNSUPPORTED", "check_supported"]

_Rule = tuple[type[errors.UnsupportedOption], Callable[[Any], bool], str, str, str]


def _rule(
    kind: type[errors.UnsupportedOption], owner: str, option: str, way_out: str,
    applies: Callable[[Any], bool],
) -> _Rule:  # fmt: skip
    return kind, applies, owner, option, way_out


UNSUPPORTED: tuple[_Rule, ...] = (
    _rule(errors.UnsupportedDevice, "mode", "device", "use device cpu or mode tensor",
          lambda c: c.mode == "scalar" and c.device in ("cuda", "mps")),
    _rule(errors.UnsupportedDtype, "mode", "dtype", "use dtype float64 or float32",
          lambda c: c.mode == "scalar" and c.dtype == "bfloat16"),
    _rule(errors.UnsupportedOptimizer, "mode", "optimizer", "use optimizer adamw or mode tensor",
          lambda c: c.mode == "scalar" and c.optimizer == "muon"),
    _rule(errors.UnsupportedOption, "mode", "dropout", "use dropout 0 or mode tensor",
          lambda c: c.mode == "scalar" and c.dropout > 0),
    _rule(errors.UnsupportedOption, "mode", "past_embeds", "use past_embeds 0 or mode tensor",
          lambda c: c.mode == "scalar" and c.past_embeds > 0),
    _rule(errors.UnsupportedOption, "mode", "ngram_rows", "use ngram_rows 0 or mode tensor",
          lambda c: c.mode == "scalar" and c.ngram_rows > 0),
    _rule(errors.UnsupportedOption, "mode", "auto_batch", "leave it out or use mode tensor",
          lambda c: c.mode == "scalar" and c.auto_batch),
    _rule(errors.UnsupportedOption, "mode", "loss", "leave it out or use mode tensor",
          lambda c: c.mode == "scalar" and c.loss == "torch"),
    _rule(errors.UnsupportedOption, "mode", "compile", "leave it out or use mode tensor",
          lambda c: c.mode == "scalar" and c.compile == "on"),
    _rule(errors.UnsupportedOption, "mode", "numerics", "use numerics fast or mode scalar",
          lambda c: c.mode == "tensor" and c.numerics == "exact"),
    _rule(errors.UnsupportedDtype, "device", "dtype", "use dtype float32",
          lambda c: c.device == "mps" and c.dtype == "float64"),
    _rule(errors.UnsupportedOption, "device", "loss", "use loss torch",
          lambda c: c.device == "mps" and c.loss == "fused"),
    _rule(errors.UnsupportedOption, "model_kind", "n_layer", "use n_layer 0 or model_kind mini-gpt",
          lambda c: c.model_kind == "bigram" and c.n_layer != 0),
    _rule(errors.UnsupportedOption, "model_kind", "n_head", "use n_head 1 or model_kind mini-gpt",
          lambda c: c.model_kind == "bigram" and c.n_head != 1),
    _rule(errors.UnsupportedOptimizer, "n_layer", "optimizer", "use optimizer adamw",
          lambda c: c.n_layer == 0 and c.optimizer == "muon"),
    _rule(errors.UnsupportedActivation, "model_kind", "activation",
          "leave it out or use model_kind mini-gpt",
          lambda c: c.model_kind == "bigram" and c.activation != "relu"),
    _rule(errors.UnsupportedOption, "model_kind", "positions",
          "leave it out or use model_kind mini-gpt",
          lambda c: c.model_kind == "bigram" and c.positions != "learned"),
    _rule(errors.UnsupportedOption, "model_kind", "qk_norm",
          "leave it out or use model_kind mini-gpt",
          lambda c: c.model_kind == "bigram" and c.qk_norm),
    _rule(errors.UnsupportedOption, "model_kind", "past_embeds",
          "use past_embeds 0 or model_kind mini-gpt",
          lambda c: c.model_kind == "bigram" and c.past_embeds > 0),
    _rule(errors.UnsupportedOption, "model_kind", "ngram_rows",
          "use ngram_rows 0 or model_kind mini-gpt",
          lambda c: c.model_kind == "bigram" and c.ngram_rows > 0),
    _rule(errors.UnsupportedOption, "model_kind", "dropout",
          "use dropout 0 or model_kind mini-gpt",
          lambda c: c.model_kind == "bigram" and c.dropout > 0),
)  # fmt: skip


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_supported(config: Any) -> None:
    """Raise the typed error of the first row of UNSUPPORTED that the config meets."""
    for kind, applies, owner, option, way_out in UNSUPPORTED:
        if applies(config):
            raise kind(
                f"{owner} {getattr(config, owner)} does not support {option}"
                f" {_spelled(getattr(config, option))}; {way_out}"
            )
