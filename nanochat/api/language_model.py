"""A trained model that generates text, predicts the next token and scores text.

Owns the public methods and their arguments. Sampling is in sampling/, loading in runs/load.py, the
plain torch module in plain_torch.py.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from nanochat.api.plain_torch import torch_module, write_module_text
from nanochat.api.text_loss import TextLoss, text_loss
from nanochat.config.option import shown
from nanochat.config.options import SampleConfig, TrainConfig
from nanochat.data.conversations import any_turns_of_messages
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import CheckpointError, ConfigError, UnsupportedOption
from nanochat.runs.find import marked_step
from nanochat.runs.history import history_of
from nanochat.runs.load import TrainedModel
from nanochat.runs.summary import Evaluation, step_evaluation
from nanochat.sampling.generate import (
    generate,
    phrase_bias,
    prompt_tokens,
    sampling_settings,
    stream,
)
from nanochat.sampling.replies import check_chats, reply, reply_prompt
from nanochat.sampling.sampling import OpensDecoders
from nanochat.system.wording import counted
from nanochat.training.average import averaged_weights
from nanochat.training.history import History

if TYPE_CHECKING:
    from nanochat.inspection.trace import Trace
    from nanochat.tensor.standalone_model import GPT

__all__ = ["LanguageModel"]

_DEFAULTS = SampleConfig()


class LanguageModel:
    """A trained model: `generate`, `stream`, `chat`, `next_tokens`, `loss`, `weights`, `to_torch`.

    Made by `nanochat.load`. It does not change: the same call returns the same result.

    Attributes:
        tokenizer: `encode(text)` returns ids, (tokens,) int64; `decode(ids)` returns text.
        config: the options that the model was trained with, a TrainConfig.
        checkpoint: the folder of the checkpoint.
        step: the number of training steps of the checkpoint.
    """

    tokenizer: Tokenizer
    config: TrainConfig
    checkpoint: Path
    step: int

    def __init__(
        self,
        trained: TrainedModel,
        config: TrainConfig,  # of the training
    ) -> None:
        found = trained.checkpoint
        self.tokenizer, self.config = trained.tokenizer, config
        self.checkpoint, self.step = found.path, found.trainer.step
        self._trained, self._mixture = trained, trained.mixture
        self._engine, self._loaded = trained.engine, trained.config
        self._run: Path = found.run_folder
        self._start: list[int] = found.data["start"]
        self._weights = averaged_weights(found.state)

    # ------------------------------------------------------------------------------- generating

    @overload
    def generate(
        self, prompt: str = ..., *, max_new_tokens: int = ..., temperature: float = ...,
        top_k: int = ..., top_p: float = ..., num_samples: None = None, seed: int = ...,
        stop: str | Sequence[str] = ..., adapt: bool = ...,
    ) -> str: ...  # fmt: skip
    @overload
    def generate(
        self, prompt: str = ..., *, max_new_tokens: int = ..., temperature: float = ...,
        top_k: int = ..., top_p: float = ..., num_samples: int, seed: int = ...,
        stop: str | Sequence[str] = ..., adapt: bool = ...,
    ) -> list[str]: ...  # fmt: skip
    def generate(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = _DEFAULTS.max_new_tokens,
        temperature: float = _DEFAULTS.temperature,
        top_k: int = _DEFAULTS.top_k,
        top_p: float = _DEFAULTS.top_p,
        num_samples: int | None = None,
        seed: int = _DEFAULTS.seed,
        stop: str | Sequence[str] = (),
        adapt: bool = False,
    ) -> str | list[str]:
        """Return a text that continues the prompt, the prompt included.

        The same arguments give the same text, which is also that of `nanochat sample`.

        Args:
            prompt: text to continue, shorter than the context window. Default: the start of a
                document.
            max_new_tokens: largest number of tokens after the prompt. The text ends sooner where
                the model ends the document.
            temperature: 0 always takes the most likely token; 1 draws from the model's
                probabilities; higher values draw less likely tokens more often.
            top_k: draw from the k most likely tokens; 0: all.
            top_p: draw from the most likely tokens with this total probability.
            num_samples: number of texts. With a number, the result is a list.
            seed: seed of the random numbers.
            stop: text or texts that end the result and are not part of it.
            adapt: let the counts of a model with `ngram_order` grow with each text.

        Raises:
            ConfigError: a value is out of range, such as a negative temperature.
            TokenizerError: the prompt has a character that the model does not know.
            PromptTooLong: the prompt is longer than the context window.

        Example:
            >>> import nanochat
            >>> model = nanochat.load()
            >>> [text[:2] for text in model.generate("an", num_samples=3)]
            ['an', 'an', 'an']
        """
        options = _sample_config(
            prompt=prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, num_samples=1 if num_samples is None else num_samples, seed=seed,
            stop=stop,
        )  # fmt: skip
        texts = generate(
            self._drawn_from(adapt), self.tokenizer, self._context(options.prompt),
            sampling_settings(options), options.num_samples, bias=self._bias,
        )  # fmt: skip
        return texts[0] if num_samples is None else texts

    def stream(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = _DEFAULTS.max_new_tokens,
        temperature: float = _DEFAULTS.temperature,
        top_k: int = _DEFAULTS.top_k,
        top_p: float = _DEFAULTS.top_p,
        seed: int = _DEFAULTS.seed,
        stop: str | Sequence[str] = (),
        adapt: bool = False,
    ) -> Iterator[str]:
        """Return an iterator over the pieces of a text, each as soon as it is drawn.

        The arguments and the errors are those of `generate`, and the joined pieces are its text.
        The first piece is the prompt. A piece is never a part of a character.

        Example:
            >>> import nanochat
            >>> model = nanochat.load()
            >>> "".join(model.stream("an")) == model.generate("an")
            True
        """
        options = _sample_config(
            prompt=prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, seed=seed, stop=stop,
        )  # fmt: skip
        context = self._context(options.prompt)  # its errors are raised before the first piece
        engine = self._drawn_from(adapt)
        return stream(engine, self.tokenizer, context, sampling_settings(options), bias=self._bias)

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int = _DEFAULTS.max_new_tokens,
        temperature: float = _DEFAULTS.temperature,
        top_k: int = _DEFAULTS.top_k,
        top_p: float = _DEFAULTS.top_p,
        seed: int = _DEFAULTS.seed,
        stop: str | Sequence[str] = (),
    ) -> str:
        """Return the reply of a model of conversations.

        Args:
            messages: the conversation so far, as `{"role": ..., "content": ...}` with the roles
                system, user and assistant. The oldest are left out if the context window is full.
            max_new_tokens: largest number of tokens of the reply.
            temperature, top_k, top_p, seed, stop: as in `generate`.

        Raises:
            UnsupportedOption: the model was not trained on conversations.
            CorpusError: a message has no known role or no text.
            ConfigError, TokenizerError, PromptTooLong: as in `generate`.

        Example:
            >>> import nanochat
            >>> model = nanochat.load()
            >>> reply = model.chat([{"role": "user", "content": "an"}])
            >>> isinstance(reply, str)
            True
        """
        options = _sample_config(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
            seed=seed, stop=stop,
        )  # fmt: skip
        tokenizer = check_chats(self.tokenizer, str(self.checkpoint))
        is_list = isinstance(messages, Iterable) and not isinstance(messages, (str, Mapping))
        turns = any_turns_of_messages(list(messages) if is_list else messages, "chat")
        prompt = reply_prompt(tokenizer, turns, self.config.block_size, options.max_new_tokens)
        pieces = reply(self._mixture, tokenizer, prompt, sampling_settings(options))
        return "".join(pieces).strip()

    def next_tokens(self, prompt: str = "", k: int = 10) -> list[tuple[str, float]]:
        """Return the k most likely next tokens with their probabilities, the likeliest first.

        A token is shown as its text; `""` ends the document. A byte that is only part of a
        character is shown as `\\xNN`. The probabilities are those of temperature 1; without k,
        over the whole vocabulary, they sum to 1. Raises the errors of `generate`, and ConfigError
        for k < 1.

        Example:
            >>> import nanochat
            >>> model = nanochat.load()
            >>> (piece, probability), *others = model.next_tokens("an", k=3)
            >>> len(others), 0 < probability <= 1
            (2, True)
        """
        _check_k(k)
        options = SampleConfig(prompt=prompt)
        decoder = self._mixture.open_decoder([self._context(options.prompt)])
        logits = decoder.logits[0].astype(np.float64)
        exps = np.exp(logits - logits.max())
        probabilities = exps / exps.sum()
        likeliest = np.argsort(-logits, kind="stable")[:k].tolist()
        return [(self.tokenizer.token_text(i), float(probabilities[i])) for i in likeliest]

    def _drawn_from(self, adapt: bool) -> OpensDecoders:
        return self._trained.adaptive_mixture if adapt else self._mixture

    def _context(self, prompt: str) -> list[int]:
        return prompt_tokens(self.tokenizer, prompt, self._start, self._trained.longest_prompt)

    @cached_property
    def _bias(self) -> Any:
        return phrase_bias(self.tokenizer, self.config.style, _DEFAULTS.style_weight)

    # ---------------------------------------------------------------------------------- scoring

    def loss(self, text: str, *, adapt: bool = False) -> TextLoss:
        """Return the loss of each token of a text in nats, with the mean and bits per byte.

        The text is split into documents as the text of the run was, and scored as `nanochat eval`
        scores a file of it: in disjoint pieces of at most `config.block_size` tokens. With `adapt`,
        the model learns from each piece after it was scored, and forgets the text afterwards.

        Returns:
            A TextLoss with `nats` (tokens,) float64, `ids` (tokens,) int64, `pieces`, `mean` in
            nats per token, `bpb` in bits per byte, and `bytes`.

        Raises:
            CorpusError: the text is empty, or only white space where that separates documents.
            TokenizerError: the text has a character that the model does not know.
            ConfigError: `text` is not a text.

        Example:
            >>> import nanochat
            >>> loss = nanochat.load().loss("anna")
            >>> loss.pieces, loss.nats.shape
            (('a', 'n', 'n', 'a', ''), (5,))
        """
        if not isinstance(text, str):
            raise ConfigError(f"text must be a str, got {type(text).__name__}")
        return text_loss(self._trained, text, adapt=adapt)

    def trace(self, text: str) -> Trace:
        """Return every number that the model computes on a text, with its gradient.

        The text is one document, which starts with BOS and ends with it. For a run on
        conversations, lines that begin with `User:` and `Assistant:` are one with its special
        tokens; the loss is that of all tokens. `nanochat inspect` shows the same numbers. On the
        scalar engine they are those of exact numerics; on the tensor engine, those of the plain
        torch model in the model's dtype.

        Returns:
            A Trace: a mapping from names to arrays, with `gradients`, `logit_lens()`, `patch()` and
            `ablate()`.

        Raises:
            CorpusError: the text is empty or has several documents.
            TokenizerError: the text has a character that the model does not know.
            PromptTooLong: the text is longer than the context window.
            UnsupportedOption: the model is counted n-grams alone, without a network.
            ConfigError: `text` is not a text.

        Example:
            >>> import nanochat
            >>> trace = nanochat.load().trace("anna")
            >>> trace["layer0.attn.weights"].shape
            (4, 5, 5)
        """
        if not isinstance(text, str):
            raise ConfigError(f"text must be a str, got {type(text).__name__}")
        from nanochat.inspection.trace import Trace, traced_text

        if self.config.model_kind == "ngram":
            raise UnsupportedOption(
                f"trace needs a model with a network, got {self.checkpoint}, whose model_kind is"
                " ngram"
            )
        return Trace(self._trained, self._weights, traced_text(self._trained, text), {})

    @property
    def history(self) -> History:
        """The parameter histories of the run, which the option record keeps.

        `history.places` are the parameters that were recorded at every step.
        `history.parameter(name, row, column)` returns the history of one of them, as arrays: steps,
        weight, gradient, first_moment, second_moment, update and rate. For a small model it returns
        that of any parameter, at some steps and rounded to float32.

        Raises:
            CheckpointError: the run has recorded nothing, or the file is damaged.

        Example:
            >>> import nanochat
            >>> config = nanochat.TrainConfig(mode="scalar", steps=5, num_samples=0, record="auto")
            >>> model = nanochat.load(nanochat.train(config).run)
            >>> model.history.parameter("wte", 8, 4).steps.tolist()
            [1, 2, 3, 4, 5]
        """
        history = history_of(self._trained.checkpoint)
        if history is None:
            raise CheckpointError(
                f"{self._run} has recorded no parameter; train with record='auto' or the names of"
                " some"
            )
        return history

    # ------------------------------------------------------------------------------- the weights

    @property
    def weights(self) -> dict[str, NDArray[np.floating]]:
        """The weights by name, as NumPy arrays in the shape (out, in) and in the saved dtype.

        `wte` is the token embedding, `wpe` the position embedding, `lm_head` the output head, and
        `layer0.attn_wq` and so on are the matrices of the blocks. With the option ema, they are the
        average. They are copies: changing them does not change the model.
        """
        return {name: array.copy() for name, array in self._weights.items()}

    def to_torch(self, *, network_only: bool = False) -> GPT:
        """Return the model as a plain torch module: ids (rows, length) -> logits.

        The logits have the shape (rows, length, vocabulary). The module is independent of this
        model; its text, about 100 lines, is the file nanochat/tensor/standalone_model.py. Of a
        model that is mixed with counts, it is the network alone, which `network_only` must allow.
        Raises UnsupportedOption for a model that the module does not compute, and MissingDependency
        without torch.

        Example:
            >>> import nanochat, torch
            >>> model = nanochat.load()
            >>> logits = model.to_torch(network_only=True)(torch.tensor([[0, 1, 2]]))
            >>> logits.shape == (1, 3, model.tokenizer.vocab_size)
            True
        """
        return torch_module(self.config, self._weights, network_only)

    def write_model_py(
        self, folder: str | os.PathLike[str] | None = None, *, network_only: bool = False
    ) -> Path:
        """Write the text of that module as `model.py` next to the weights and return its path.

        The file needs torch and safetensors, not nanochat: its function `load()` loads the
        checkpoint. In another `folder`, give it the checkpoint: `load("runs/x/checkpoints/...")`.
        Raises UnsupportedOption as `to_torch` does, and OutputError if another `model.py` is there
        or the folder cannot be written to.

        Example:
            >>> import nanochat
            >>> nanochat.load().write_model_py(network_only=True).name
            'model.py'
        """
        return write_module_text(self.config, Path(folder or self.checkpoint), network_only)

    # ------------------------------------------------------------------------------- description

    @cached_property
    def validation(self) -> Evaluation | None:
        """The validation loss of the checkpoint: `loss` in nats per token, `bpb` in bits per byte.

        None if the run's folder does not have it.
        """
        return step_evaluation(self._run, self.step)

    @property
    def params(self) -> int:
        """The number of weights."""
        return sum(array.size for array in self._weights.values())

    def __repr__(self) -> str:
        config, engine = self.config, self._engine
        size = f"{counted(self.params, 'parameter')}: "
        if config.model_kind == "mini-gpt":
            layers, heads = counted(config.n_layer, "layer"), counted(config.n_head, "head")
            size += f"{layers}, {heads}, "
        size += f"hidden size {config.n_embd}, context window {config.block_size}"
        if config.model_kind == "ngram":
            assert self._trained.counts is not None
            counts = self._trained.counts
            size = f"order {counts.order}, {counts.entries:,} table entries, no parameters"
        rows = {
            "checkpoint": str(self.checkpoint),
            "model": f"{config.model_kind}, {size}",
            "tokenizer": f"{self.tokenizer.kind}, {counted(self.tokenizer.vocab_size, 'token')}",
            "step": self._step_text(),
            "validation": _score(self.validation),
            "engine": f"{engine.mode}, {engine.device}, {self._loaded.dtype}",
        }
        lines = [f"  {name + ':':<12}{value}" for name, value in rows.items()]
        return "\n".join(["LanguageModel(", *lines, ")"])

    def _step_text(self) -> str:
        best, step = marked_step(self._run), f"{self.step:,} of {self.config.steps:,}"
        if best is None:
            return step
        return f"{step}, the best" if best == self.step else f"{step}; the best is {best:,}"


def _sample_config(**options: Any) -> SampleConfig:
    """Return the options of samples; an argument that is the default was not given."""
    return SampleConfig(
        **{name: value for name, value in options.items() if value is not getattr(_DEFAULTS, name)}
    )


def _check_k(k: Any) -> None:
    if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
        raise ConfigError(f"k must be a whole number of at least 1, got {shown(k)}")


def _score(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "unknown"
    nats = f"{evaluation.loss:.4f} nats per token"
    return nats if evaluation.bpb is None else f"{nats}, {evaluation.bpb:.4f} bits per byte"
