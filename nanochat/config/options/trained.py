"""The options of the commands that use a trained model: sample, chat, eval and inspect."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from nanochat.config.option import UNSET, closest, option, options_of, parse_given, shown
from nanochat.config.options.checks import check_adapt, check_separator
from nanochat.config.options.shared import (
    BEST,
    DATA,
    SAMPLING,
    TABLE_SUFFIXES,
    WithoutPreset,
    run_option,
)
from nanochat.config.options.train import TrainConfig
from nanochat.config.unsupported import EFFECTS_OF_CHAT, EFFECTS_OF_EVAL, EFFECTS_OF_SAMPLE
from nanochat.errors import ConfigError

__all__ = [
    "VIEWS",
    "ChatConfig",
    "EvalConfig",
    "ExportConfig",
    "InspectConfig",
    "SampleConfig",
    "ServeConfig",
]

_TRAIN = options_of(TrainConfig)
_INSPECTION, _EXPORT = "Inspection", "Export"

EXPORT_FORMATS = ("hf", "gguf", "onnx", "torch", "c")
WEIGHT_TYPES = ("f32", "f16", "q8_0")
_SERVER, _LIMITS = "Server", "Limits"

# What `inspect` can print, in the order of the page.
VIEWS = (
    "loss", "forward", "gradients", "attention", "lens", "parameter", "embeddings", "importance",
    "compare", "tokenizer",
)  # fmt: skip


def _same(name: str, **changes: Any) -> Any:
    """Declare the same option as in TrainConfig, with changes."""
    return field(default=UNSET, metadata={"option": dataclasses.replace(_TRAIN[name], **changes)})


def _model_file_option() -> Any:
    return _same(
        "model_file", output=False,
        help="The file of a run that was trained with one; its code is run.",
    )  # fmt: skip


def _checkpoint_option(group: str) -> Any:
    return option(
        BEST, "Checkpoint of the run: best, last, a step, or the path of a checkpoint or run.",
        group=group, path=True, common=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig(WithoutPreset):
    """The options of `nanochat sample`."""

    run: str | None = run_option(SAMPLING)
    checkpoint: str = _checkpoint_option(SAMPLING)
    prompt: str = option("", "Text to continue.", group=SAMPLING, common=True)
    num_samples: int = _same("num_samples", default=1, low=1, common=True)
    max_new_tokens: int = _same("max_new_tokens", common=True)
    temperature: float = _same("temperature", common=True)
    top_k: int = _same("top_k", common=True)
    top_p: float = _same("top_p", common=True)
    stop: tuple[str, ...] = _same("stop", common=True)
    seed: int = _same("seed")
    style_weight: float = option(
        1.0, "Logit bonus for phrases of the futuristic style, if the model was trained with it.",
        group=SAMPLING, low=0, high=100,
    )  # fmt: skip
    adapt: bool = option(
        False, "Let the counts of a model with ngram_order grow with the prompt and the sample.",
        group=SAMPLING, common=True,
    )  # fmt: skip
    from_counts: bool = option(
        False, "Sample from bigram counts of the training text instead of the weights.",
        group=SAMPLING, common=True,
    )  # fmt: skip
    network_only: bool = option(
        False, "Sample from the network of a run with ngram_order without its counts.",
        group=SAMPLING, common=True,
    )  # fmt: skip
    explain: bool = option(
        False, "Show for each token the likeliest tokens, and what network and counts each said.",
        group=SAMPLING, common=True,
    )  # fmt: skip
    report_copies: int = option(
        0, "Mark spans of at least this many tokens that the training text also has; 0: none.",
        group=SAMPLING, low=0, high=1 << 20, common=True,
    )  # fmt: skip
    data_dir: str | None = _same("data_dir")
    model_file: str | None = _model_file_option()
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")

    def __post_init__(self) -> None:
        given = parse_given(self)
        WithoutPreset.__post_init__(self)
        if self.from_counts and self.network_only:
            raise ConfigError(
                "from_counts samples from counts alone and network_only from the network alone;"
                " leave one out"
            )
        if self.adapt and self.from_counts:
            raise ConfigError("adapt has no effect with from_counts; leave one of them out")
        check_adapt(self)
        self._check_effects(given, EFFECTS_OF_SAMPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig(WithoutPreset):
    """The options of `nanochat chat`."""

    run: str | None = run_option(SAMPLING)
    checkpoint: str = _checkpoint_option(SAMPLING)
    system: str | None = option(
        None, "Message of the system, before the conversation.", group=SAMPLING, kind=str,
        optional=True, common=True,
    )  # fmt: skip
    max_new_tokens: int = _same(
        "max_new_tokens", common=True, help="Maximum length of a reply, in tokens."
    )
    temperature: float = _same("temperature", common=True)
    top_k: int = _same("top_k", common=True)
    top_p: float = _same("top_p", common=True)
    stop: tuple[str, ...] = _same(
        "stop", common=True, help="Text that ends a reply and is not part of it; repeatable."
    )
    seed: int = _same("seed")
    model_file: str | None = _model_file_option()
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")

    def __post_init__(self) -> None:
        given = parse_given(self)
        WithoutPreset.__post_init__(self)
        self._check_effects(given, EFFECTS_OF_CHAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(WithoutPreset):
    """The options of `nanochat eval`."""

    run: str | None = run_option(DATA)
    checkpoint: str = _checkpoint_option(DATA)
    data: tuple[str, ...] | None = option(
        None, "Text to score; default: the validation text of the run; repeatable.", group=DATA,
        path=True, whole=True, kind=tuple, optional=True, common=True,
    )  # fmt: skip
    text_column: str | None = _same("text_column")
    documents: str = _same(
        "documents", common=True, help="Unit of text that is one document; auto: as in training."
    )
    separator: str | None = _same("separator")
    data_dir: str | None = _same("data_dir", common=True)
    adapt: bool = option(
        False, "Let the model learn from each piece of the text after scoring it.", group=DATA,
        common=True,
    )  # fmt: skip
    per_token: str | None = option(
        None, "File for the loss of every token, .jsonl or .csv, to compare two models in pairs.",
        group=DATA, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    baselines: bool = option(
        False, "Also score n-gram counts and compressors that read the training text.",
        group=DATA, common=True,
    )  # fmt: skip
    network_only: bool = option(
        False, "Score the network of a run with ngram_order without its counts, and then with"
        " them.", group=DATA, common=True,
    )  # fmt: skip
    batch_size: int = _same("batch_size", common=True)
    model_file: str | None = _model_file_option()
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")

    def __post_init__(self) -> None:
        given = parse_given(self)
        WithoutPreset.__post_init__(self)
        check_adapt(self)
        check_separator(self.separator, self.documents)
        if self.per_token is not None and not self.per_token.lower().endswith(TABLE_SUFFIXES):
            raise ConfigError(
                f"per_token must be a file that ends in {' or '.join(TABLE_SUFFIXES)}, got"
                f" {shown(self.per_token)}"
            )
        self._check_effects(given, EFFECTS_OF_EVAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectConfig(WithoutPreset):
    """The options of `nanochat inspect`."""

    run: str | None = run_option(_INSPECTION)
    checkpoint: str = _checkpoint_option(_INSPECTION)
    text: str | None = option(
        None, "Text to run the model on, one document; default: a text that the model writes.",
        group=_INSPECTION, optional=True, kind=str, common=True,
    )  # fmt: skip
    view: tuple[str, ...] = option(
        ("loss",), f"Views to print, of {', '.join(VIEWS)}; repeatable. The page has all of them.",
        group=_INSPECTION, kind=tuple, common=True,
    )  # fmt: skip
    out: str | None = option(
        None, "File for the page; default: inspect.html in the folder of the run.",
        group=_INSPECTION, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    against: str | None = option(
        None, "Run or checkpoint to compare with, number by number.", group=_INSPECTION,
        path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    against_model_file: str | None = _same(
        "model_file", output=False, help="The model file of the run to compare with."
    )
    against_mode: str = _same(
        "mode", common=True, help="Engine to compare with; auto: the one of the other run."
    )
    against_dtype: str = _same(
        "dtype", common=True, help="Number format to compare with; auto: that of the other run."
    )
    against_numerics: str = option(
        "auto",
        "Compare with the recorded program that trains on the scalar engine: fast or exact; auto:"
        " with the other run's own numbers.", group=_INSPECTION, choices=("auto", "fast", "exact"),
        common=True,
    )  # fmt: skip
    max_numbers: int = option(
        400_000, "Numbers that the page may hold, about 11 bytes each; beyond, it leaves out the"
        " views of single numbers and some recorded steps.", group=_INSPECTION, low=0,
        high=1 << 28, common=True,
    )  # fmt: skip
    model_file: str | None = _model_file_option()
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")

    def __post_init__(self) -> None:
        WithoutPreset.__post_init__(self)
        views = tuple(name for given in self.view for name in given.split(",") if name)
        for name in views:
            if name not in VIEWS:
                raise ConfigError(
                    f"view must be one of {', '.join(VIEWS)}, got"
                    f" {shown(name)}{closest(name, VIEWS)}"
                )
        object.__setattr__(self, "view", tuple(dict.fromkeys(views)))
        if "compare" in self.view and not self.compares:
            raise ConfigError(
                "view compare needs something to compare with; give --against, --against-mode,"
                " --against-dtype or --against-numerics"
            )

    @property
    def compares(self) -> bool:
        """Whether something is named to compare with."""
        named = (self.against_mode, self.against_dtype, self.against_numerics)
        return named != ("auto", "auto", "auto") or self.against is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(WithoutPreset):
    """The options of `nanochat export`."""

    run: str | None = run_option(_EXPORT)
    checkpoint: str = _checkpoint_option(_EXPORT)
    to: str = option(
        "hf", "Format; hf: a folder for transformers; gguf: a file for llama.cpp and Ollama; onnx:"
        " a file for onnxruntime; torch: a module in one file; c: a program.", group=_EXPORT,
        choices=EXPORT_FORMATS, common=True,
    )  # fmt: skip
    out: str | None = option(
        None, "Folder for the files; default: export/FORMAT in the folder of the run.",
        group=_EXPORT, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    network_only: bool = option(
        False, "Export the network of a run with ngram_order without its counts.", group=_EXPORT,
        common=True,
    )  # fmt: skip
    weights: str = option(
        "f32", "Number format of the weights; f16 and q8_0 need to gguf.", group=_EXPORT,
        choices=WEIGHT_TYPES,
    )  # fmt: skip
    verify: bool = option(
        True, "Compare what the other program computes from the files; needs that program.",
        group=_EXPORT, common=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        WithoutPreset.__post_init__(self)
        if self.to != "gguf" and self.weights != "f32":
            raise ConfigError(
                f"weights {self.weights} needs to gguf, got to {self.to}; leave weights out"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig(WithoutPreset):
    """The options of `nanochat serve`."""

    run: str | None = run_option(_SERVER)
    checkpoint: str = _checkpoint_option(_SERVER)
    host: str = option(
        "127.0.0.1", "Address to listen on; one that others can reach needs api_key.",
        group=_SERVER, common=True,
    )  # fmt: skip
    port: int = option(
        8000, "Port to listen on; 0: a free one.", group=_SERVER, low=0, high=65535, common=True
    )
    api_key: str | None = option(
        None, "Key that clients must send, better given as the variable NCLAB_API_KEY.",
        group=_SERVER, kind=str, optional=True, common=True,
    )  # fmt: skip
    max_rows: int = option(
        64, "Texts that are drawn at one time, and of one request.", group=_LIMITS, low=1,
        high=4096, common=True,
    )  # fmt: skip
    max_queue: int = option(
        256, "Texts that may wait; beyond, requests are refused with status 429.", group=_LIMITS,
        low=0, high=1 << 20, common=True,
    )  # fmt: skip
    max_tokens: int = option(
        4096, "Tokens of one text.", group=_LIMITS, low=1, high=1 << 24, common=True
    )
    max_time: float = option(
        300.0, "Seconds of one request.", group=_LIMITS, low=0, low_open=True, high=1e6,
        common=True,
    )  # fmt: skip
    max_body: int = option(
        1024, "Size of the body of a request, in KiB.", group=_LIMITS, low=1, high=1 << 20,
        common=True,
    )  # fmt: skip
    model_file: str | None = _model_file_option()
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")

    def __post_init__(self) -> None:
        WithoutPreset.__post_init__(self)
        if self.api_key is not None and not _is_key(self.api_key):
            raise ConfigError("api_key must be letters, digits and signs of ASCII without spaces")


def _is_key(text: str) -> bool:
    """Whether a header can hold a text as one word. It is a secret, so no message shows it."""
    return bool(text) and all("!" <= each <= "~" for each in text)
