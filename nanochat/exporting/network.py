"""The network of a checkpoint as a writer needs it, and what each format can express of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig, options_of
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import UnsupportedOption

__all__ = [
    "NOT_OF_THE_NETWORK",
    "Known",
    "Network",
    "Run",
    "check_expressible",
    "check_has_blocks",
]

# Options of the model's group that do not change what trained weights compute.
NOT_OF_THE_NETWORK = {"mode", "preset", "portable", "init_std", "zero_init", "dropout"}

# The options that a format can express, with the values that it knows. None: all values.
Known = Mapping[str, tuple[Any, ...] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A trained network, in float32, without the counts that it may be mixed with."""

    name: str  # of the run
    config: TrainConfig
    weights: Mapping[str, NDArray[np.float32]]  # by the names of the checkpoint
    tokenizer: Tokenizer
    opens_with_bos: bool  # a text begins with BOS; it does not in a model of one long document
    first_token: int = 0  # that a sample without a prompt begins with
    program: str | None = None  # in C, that trains the network of a scalar run

    @property
    def embedding(self) -> NDArray[np.float32]:  # (vocabulary, n_embd)
        """The embedding of each token."""
        return self._of_tokens("wte")

    @property
    def head(self) -> NDArray[np.float32]:  # (vocabulary, n_embd)
        """The output matrix."""
        return self._of_tokens("wte" if self.config.tie_lm_head else "lm_head")

    def _of_tokens(self, name: str) -> NDArray[np.float32]:
        """Return a matrix without its row for the share of counts, which follows the tokens."""
        return self.weights[name][: self.tokenizer.vocab_size]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What another program makes of exported files."""

    program: str  # its name and version
    logits: NDArray[np.floating]  # (rows, length, vocabulary) of the rows it was given
    ids: list[list[int]] | None  # of the texts; None: it has no tokenizer


def check_expressible(config: TrainConfig, known: Known, what: str, way_out: str) -> None:
    """Raise UnsupportedOption for the first option of the network that a format cannot express."""
    for name, option in options_of(TrainConfig).items():
        if option.group != "Model" or name in NOT_OF_THE_NETWORK:
            continue
        value, values = getattr(config, name), known.get(name, ())
        if values is None or value in values:
            continue
        rule = f"does not support {name} {option.text(value)}"
        if any(each is not None for each in values):
            needed = " or ".join(map(option.text, values))
            rule = f"needs {name} {needed}, got {option.text(value)}"
        raise UnsupportedOption(f"{what} {rule}; {way_out}")


def check_has_blocks(config: TrainConfig, what: str) -> None:
    """Raise UnsupportedOption for a mini-gpt without a block, whose file would have no past."""
    if config.model_kind == "mini-gpt" and config.n_layer == 0:
        raise UnsupportedOption(
            f"{what} needs n_layer of at least 1, got 0; export to another format"
        )
