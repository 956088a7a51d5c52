"""`LanguageModel.trace`: the named numbers of a model on a text, and what changes if some change.

Leaves out the passes themselves (scalar/trace.py, tensor/trace.py) and what people see of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.config.option import shown
from nanochat.data.conversations import (
    Conversations,
    encode_conversations,
    looks_like_conversations,
    marked,
    turns_of_text,
)
from nanochat.data.corpus import text_documents
from nanochat.data.documents import encode_documents
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.texts import Texts
from nanochat.errors import ConfigError, CorpusError, PromptTooLong, UnsupportedOption
from nanochat.model.parameters import RMSNORM_EPS
from nanochat.model.traced import Computed, Edits, TracedText
from nanochat.runs.load import TrainedModel
from nanochat.system.wording import counted, printable

__all__ = ["Trace", "inverse_rms", "traced_text"]

# Of the largest logit, by which the sum of the parts may differ from the logits.
_ROUNDING = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 0.1}


class Trace(Mapping[str, NDArray[np.float64]]):
    """Every number that a model computes on one text: a mapping from names to float64 arrays.

    `trace["layer0.attn.weights"]` is (heads, tokens, tokens); `print(trace)` lists all names and
    shapes. Row t of an array is about the token that is read at index t, which predicts target t.

    Attributes:
        tokens: ids of the tokens that are read, (tokens,) int64; the first is BOS.
        targets: ids of the tokens to predict, (tokens,) int64; the last is BOS, the end.
        pieces: text of each target; "" for the end.
        gradients: d mean loss / d number, by the same names and in the same shapes.
        weights, weight_gradients: the weights and their gradients, by name.
        mean: the loss, in nats per token.
    """

    def __init__(
        self,
        trained: TrainedModel,
        weights: Mapping[str, NDArray[np.floating]],
        text: TracedText,
        edits: Edits,
    ) -> None:
        self.trained, self._edits, self.tokenizer = trained, edits, trained.tokenizer
        self.config, self.text, self.weights = trained.config, text, weights
        self.source, self.tokens, self.targets = text.source, text.tokens, text.targets
        self._computed = _compute(trained, weights, text, edits)

    @cached_property
    def pieces(self) -> list[str]:
        return [self.tokenizer.token_text(token) for token in self.targets.tolist()]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        try:
            return self._computed.values[name]
        except KeyError:
            raise ConfigError(
                f"trace has no array {shown(name)}; it has {', '.join(self)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._computed.values

    def __iter__(self) -> Iterator[str]:
        return iter(self._computed.values)

    def __len__(self) -> int:
        return len(self._computed.values)

    def __repr__(self) -> str:
        engine = self.trained.engine
        width = max(map(len, self))
        rows = [f"  {name:<{width}}  {array.shape}" for name, array in self.items()]
        head = (
            f"Trace({counted(len(self.tokens), 'token')}, {self.mean:.4f} nats per token,"
            f" {engine.mode}, {self.config.dtype})"
        )
        return "\n".join([head, *rows])

    @property
    def gradients(self) -> Mapping[str, NDArray[np.float64]]:
        return self._computed.gradients

    @property
    def weight_gradients(self) -> Mapping[str, NDArray[np.float64]]:
        return self._computed.weight_gradients

    @cached_property
    def mean(self) -> float:
        return float(self["losses"].mean())

    @property
    def embedding(self) -> NDArray[np.float64]:  # (tokens, n_embd)
        """The vectors that the first block reads."""
        names = [name for name in self if name.startswith("embed.")]
        self._check_names("logit_lens", names[-1:] or ["embed.token"])
        return self[names[-1]]

    def patch(self, arrays: Mapping[str, ArrayLike]) -> Trace:
        """Return the trace in which the given arrays replace those that the model computes.

        What follows from them is computed anew. NaN leaves a number as the model computes it.

        Raises:
            ConfigError: no array has this name, or its shape differs.

        Example:
            >>> import nanochat
            >>> trace = nanochat.load().trace("anna")
            >>> silent = trace.patch({"layer0.attn.out": 0 * trace["layer0.attn.out"]})
            >>> silent.mean != trace.mean
            True
        """
        edits = dict(self._edits)
        for name, given in arrays.items():
            array, shape = np.array(given, dtype=np.float64), self[name].shape
            if array.shape != shape:
                raise ConfigError(f"{name} must have the shape {shape}, got {array.shape}")
            edits[name] = _merged(edits.get(name), array)
        return Trace(self.trained, self.weights, self.text, edits)

    def ablate(
        self,
        *,
        head: tuple[int, int] | None = None,
        neuron: tuple[int, int] | None = None,
        position: int | None = None,
    ) -> Trace:
        """Return the trace without a part of the model: its numbers are 0, or nobody sees them.

        Args:
            head: (layer, head) of an attention head.
            neuron: (layer, neuron) of an MLP.
            position: index of a token, which no later token sees.

        Raises:
            ConfigError: no such part, or not exactly one is named.
            UnsupportedOption: a model file does not name the array of the part.

        Example:
            >>> import nanochat
            >>> trace = nanochat.load().trace("anna")
            >>> change = trace.ablate(head=(0, 0)).mean - trace.mean
        """
        parts = {"head": head, "neuron": neuron, "position": position}
        if sum(part is not None for part in parts.values()) != 1:
            raise ConfigError("ablate takes one of head, neuron and position, got " + _given(parts))
        if head is not None:
            return self.patch(self._without_head(*_pair("head", head)))
        if neuron is not None:
            return self.patch(self._without_neuron(*_pair("neuron", neuron)))
        assert position is not None
        return self.patch(self._without_position(position))

    def _without_head(self, layer: int, head: int) -> dict[str, NDArray[np.float64]]:
        """Return the patch that silences an attention head."""
        config = self.config
        array = self._untouched(layer, "attn.mixed")
        _check_index("head", head, config.n_head)
        array[:, head * config.head_dim : (head + 1) * config.head_dim] = 0.0
        return {f"layer{layer}.attn.mixed": array}

    def _without_neuron(self, layer: int, neuron: int) -> dict[str, NDArray[np.float64]]:
        """Return the patch that silences a neuron of an MLP."""
        array = self._untouched(layer, "mlp.active")
        _check_index("neuron", neuron, array.shape[1])
        array[:, neuron] = 0.0
        return {f"layer{layer}.mlp.active": array}

    def _without_position(self, position: int) -> dict[str, NDArray[np.float64]]:
        """Return the patch in which no later token attends to this one."""
        _check_index("position", position, len(self.tokens))
        patch = {}
        for layer in range(self.config.n_layer):
            array = self._untouched(layer, "attn.scores")
            array[:, position + 1 :, position] = -np.inf
            patch[f"layer{layer}.attn.scores"] = array
        return patch

    def _untouched(self, layer: int, name: str) -> NDArray[np.float64]:
        _check_index("layer", layer, self.config.n_layer)
        name = f"layer{layer}.{name}"
        self._check_names("ablate", [name])
        return np.full(self[name].shape, np.nan)

    def _check_names(self, what: str, names: Sequence[str]) -> None:
        """Raise UnsupportedOption for an array that a model file does not name."""
        for name in names:
            if name not in self:
                assert self.trained.own is not None
                raise UnsupportedOption(
                    f"{what} needs the array {name}, which the model of"
                    f" {printable(self.trained.own.path)} does not name; name it with see"
                )

    def _check_sum(self, logits: NDArray[np.float64]) -> None:
        """Raise UnsupportedOption for a model file whose parts do not add up to its logits."""
        own, found = self.trained.own, self["logits"]
        if own is None or self._edits:
            return
        if np.abs(logits - found).max() > _ROUNDING[self.config.dtype] * np.abs(found).max():
            raise UnsupportedOption(
                "logit_lens needs a model whose parts add up to its logits, which those of"
                f" {printable(own.path)} do not"
            )

    def logit_lens(self) -> LogitLens:
        """Return what the output head says of the residual stream after each part of the model.

        With output_rmsnorm, the head reads the normalized stream of each stage. A stage contributes
        what it adds to the stream, on the scale that the norm gives to the final stream.

        Raises UnsupportedOption for a model file that has no such stream.

        Example:
            >>> import nanochat
            >>> lens = nanochat.load().trace("anna").logit_lens()
            >>> lens.stages[0], lens.logits.shape[0] == len(lens.stages)
            ('embed', True)
        """
        config, head = self.config, self.weights["wte"]
        if not config.tie_lm_head:
            head = self.weights["lm_head"]
        layers = range(config.n_layer if config.model_kind == "mini-gpt" else 0)
        stages = [f"layer{layer}.{part}" for layer in layers for part in ("attn", "mlp")]
        self._check_names("logit_lens", [*(f"{stage}.out" for stage in stages), "logits"])
        parts = {"embed": self.embedding, **{stage: self[f"{stage}.out"] for stage in stages}}
        added = np.stack(list(parts.values()))
        contributions = added @ head.astype(np.float64).T
        logits = np.cumsum(contributions, axis=0)
        if config.output_rmsnorm:
            scales = inverse_rms(np.cumsum(added, axis=0))
            logits, contributions = logits * scales, contributions * scales[-1]
        if cap := config.logit_softcap:
            logits = cap * np.tanh(logits / cap)
        self._check_sum(logits[-1])
        if config.ngram_order:  # the last one is the share of the counts
            logits, contributions = logits[..., :-1], contributions[..., :-1]
        return LogitLens(tuple(parts), logits, contributions, self.targets)


class LogitLens:
    """The logits of the residual stream after each stage, and what each stage added to them.

    The residual stream is a sum and the output head is linear, so the contributions of all stages
    add up to the logits of the model, before the soft-cap if it has one. A norm before the head
    only scales each token's stream. Its scale for the final stream is used for all contributions.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).

    Attributes:
        stages: `embed`, `layer0.attn`, `layer0.mlp`, …
        logits: (stages, tokens, vocabulary) float64, after the norm of the stage and the soft-cap.
        contributions: (stages, tokens, vocabulary) float64.
        losses: (stages, tokens) nats of each target, by the network alone.
    """

    def __init__(
        self,
        stages: Sequence[str],
        logits: NDArray[np.float64],
        contributions: NDArray[np.float64],
        targets: NDArray[np.int64],
    ) -> None:
        self.stages, self.logits, self.contributions = stages, logits, contributions
        largest = logits.max(axis=-1, keepdims=True)
        sums = largest[..., 0] + np.log(np.exp(logits - largest).sum(axis=-1))
        chosen = np.take_along_axis(logits, targets[None, :, None], axis=-1)[..., 0]
        self.losses: NDArray[np.float64] = sums - chosen

    def __repr__(self) -> str:
        rows = [
            f"  {stage:<12}  {nats:.4f} nats per token"
            for stage, nats in zip(self.stages, self.losses.mean(axis=1), strict=True)
        ]
        return "\n".join(["LogitLens", *rows])


def traced_text(trained: TrainedModel, text: str) -> TracedText:
    """Return a text as one document of a run; for a run on conversations, lines that begin with the
    roles are one. Raises CorpusError, TokenizerError, PromptTooLong."""
    config, tokenizer = trained.config, trained.tokenizer
    if isinstance(tokenizer, ChatTokenizer) and looks_like_conversations(text):
        texts = Texts.of([marked(turns).decode() for turns in turns_of_text(text, "text")])
        documents = encode_conversations(tokenizer, Conversations.of(texts))
    else:
        documents = encode_documents(
            tokenizer, text_documents(text, config.documents, config.separator)
        )
    if documents.count != 1:
        raise CorpusError(
            f"text must be one document, got {documents.count}; trace them one by one"
        )
    tokens = documents.stream.astype(np.int64)
    if documents.pairs > config.block_size:
        raise PromptTooLong(
            f"text must have at most {config.block_size - 1} tokens, with the start of the document"
            f" block_size {config.block_size}, got {documents.pairs - 1}; shorten it"
        )
    by_counts = trained.by_counts(documents)
    return TracedText(
        source=text, tokens=tokens[:-1], targets=tokens[1:], share=trained.engine.share,
        by_counts=None if by_counts is None else by_counts.astype(np.float64),
    )  # fmt: skip


def _compute(
    trained: TrainedModel,
    weights: Mapping[str, NDArray[np.floating]],
    text: TracedText,
    edits: Edits,
) -> Computed:
    with nullcontext() if trained.own is None else trained.own.faults():
        return _pass(trained, weights, text, edits)


def _pass(
    trained: TrainedModel,
    weights: Mapping[str, NDArray[np.floating]],
    text: TracedText,
    edits: Edits,
) -> Computed:
    config, own = trained.config, trained.own
    if config.mode == "scalar":
        from nanochat.scalar.trace import scalar_trace

        return scalar_trace(config, weights, text, edits, dtype=config.dtype, own=own)
    from nanochat.tensor.trace import tensor_trace

    return tensor_trace(
        config, weights, text, edits, vocab_size=trained.tokenizer.vocab_size, dtype=config.dtype,
        device=config.device, own=own,
    )  # fmt: skip


def inverse_rms(x: NDArray[np.float64]) -> NDArray[np.float64]:  # (…, n) -> (…, 1)
    """Return the factor of RMSNorm, over the last dimension."""
    result: NDArray[np.float64] = (np.square(x).mean(axis=-1, keepdims=True) + RMSNORM_EPS) ** -0.5
    return result


def _merged(first: NDArray[np.float64] | None, second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the numbers of the second edit, and those of the first where it leaves them."""
    return second if first is None else np.where(np.isnan(second), first, second)


def _given(parts: Mapping[str, Any]) -> str:
    given = [name for name, part in parts.items() if part is not None]
    return " and ".join(given) if given else "none"


def _pair(name: str, given: Any) -> tuple[int, int]:
    try:
        layer, index = given
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a pair (layer, {name}), got {shown(given)}") from None
    return layer, index


def _check_index(name: str, index: Any, size: int) -> None:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < size:
        raise ConfigError(f"{name} must be from 0 to {size - 1}, got {shown(index)}")
