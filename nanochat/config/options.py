"""Every option of every command: its type, default, help and check stand here and nowhere else.

A `TrainConfig` is whole as soon as it exists: what is not given comes from its preset, `auto`
values that need no device are replaced, and every value and combination has been checked. The
command line, the environment, config files and the Python API all build one through the same
constructor, so all of them refuse the same things in the same words.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from nanochat import errors
from nanochat.config.engine_choice import choose_engine
from nanochat.config.option import (
    UNSET,
    Option,
    check_options,
    closest,
    fill,
    filled,
    option,
    options_of,
)
from nanochat.config.presets import PRESETS
from nanochat.config.unsupported import UNSUPPORTED, check_supported
from nanochat.errors import ConfigError
from nanochat.system import processes

__all__ = [
    "ABLATIONS_DIR",
    "CHECKPOINTS_DIR",
    "MAX_SEED",
    "PRESETS",
    "RUNS_DIR",
    "UNSUPPORTED",
    "AblateConfig",
    "EvalConfig",
    "Option",
    "SampleConfig",
    "TrainConfig",
    "budget_seconds",
    "check_options",
    "closest",
    "options_of",
]

RUNS_DIR = "runs"
CHECKPOINTS_DIR = "checkpoints"
ABLATIONS_DIR = "ablations"

MAX_SEED = 2**32 - 1  # one word of the Philox key

# --------------------------------------------------------------------------------------- training

_MODEL, _DATA, _OPTIM, _RUN, _SAMPLE = "Model", "Data", "Optimization", "Run", "Sampling"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run, whole and checked.

    Values that are not given come from `preset`. Raises ConfigError (a value) or UnsupportedOption
    (a combination). Example:

    >>> TrainConfig(preset="microgpt", steps=100).n_embd
    16
    """

    # model
    mode: str = option(
        "auto", "Engine: auto takes the faster one for the model and the text.", group=_MODEL,
        choices=("auto", "scalar", "tensor"), common=True,
    )  # fmt: skip
    model_kind: str = option(
        "mini-gpt", "Model.", group=_MODEL, choices=("bigram", "mini-gpt"), common=True
    )
    preset: str = option(
        "auto", "Named set of defaults; auto follows mode and model kind.", group=_MODEL,
        choices=("auto", *PRESETS), common=True,
    )  # fmt: skip
    n_layer: int = option(2, "Transformer blocks.", group=_MODEL, low=0, high=256, common=True)
    n_head: int = option(4, "Attention heads a block.", group=_MODEL, low=1, high=256, common=True)
    n_embd: int = option(
        64, "Width of the residual stream.", group=_MODEL, low=1, high=65536, common=True
    )
    block_size: int = option(
        16, "Longest context, in tokens.", group=_MODEL, low=1, high=1 << 20, common=True
    )
    activation: str = option("relu2", "MLP activation.", group=_MODEL, choices=("relu", "relu2"))
    positions: str = option(
        "rope", "Position information.", group=_MODEL, choices=("learned", "rope")
    )
    past_embeds: int = option(
        0, "Embeddings of this many tokens before are added to a token's own (tensor only).",
        group=_MODEL, low=0, high=64,
    )  # fmt: skip
    ngram_rows: int = option(
        0, "Rows of a table of n-grams' embeddings, by their hash, added as well (tensor only).",
        group=_MODEL, low=0, high=1 << 24,
    )  # fmt: skip
    ngram_longest: int = option(
        4, "Tokens of its longest n-grams; the shortest have two.", group=_MODEL, low=2, high=64
    )
    tie_lm_head: bool = option(False, "Head shares the token embedding.", group=_MODEL)
    input_rmsnorm: bool = option(True, "RMSNorm right after the embedding.", group=_MODEL)
    qk_norm: bool = option(True, "RMSNorm on each head's queries and keys.", group=_MODEL)
    logit_softcap: float = option(
        0.0, "cap*tanh(logits/cap); 0 is off.", group=_MODEL, low=0, high=1e6
    )
    init_std: float = option(
        0.08, "Standard deviation of the initial weights.", group=_MODEL, low=0, high=100,
        low_open=True,
    )  # fmt: skip
    zero_init: bool = option(
        False, "Output projections of attention and MLP start at zero.", group=_MODEL
    )
    dropout: float = option(
        0.0, "Dropout on embedding, attention and MLP outputs (tensor only).", group=_MODEL,
        low=0, high=0.95,
    )  # fmt: skip

    # data
    data: str = option(
        "names", "Text file, folder, .jsonl, .parquet, or a registry name.", group=_DATA,
        common=True,
    )  # fmt: skip
    data_dir: str | None = option(
        None, "Folder searched for registry data before downloading.", group=_DATA, kind=str,
        optional=True, output=True,
    )  # fmt: skip
    documents: str = option(
        "auto", "What one document is; auto: line for name lists, file else.", group=_DATA,
        choices=("auto", "file", "line", "paragraph"),
    )  # fmt: skip
    tokenizer: str = option(
        "char", "Characters, bytes, or word pieces learned from the training part.", group=_DATA,
        choices=("char", "byte", "bpe"),
    )  # fmt: skip
    vocab_size: int = option(
        1024, "Tokens of tokenizer bpe, the 256 bytes and BOS among them.", group=_DATA, low=258,
        high=1 << 17,
    )  # fmt: skip
    val_fraction: float = option(
        0.1, "Part held out for validation; 0 for none.", group=_DATA, low=0, high=0.99
    )
    style: str = option(
        "classic", "futuristic adds a small style corpus to the training part.", group=_DATA,
        choices=("classic", "futuristic"), common=True,
    )  # fmt: skip
    batching: str = option(
        "auto", "How rows are made; auto: windows for long documents, packed for short ones.",
        group=_DATA, choices=("auto", "windows", "packed", "documents"),
    )  # fmt: skip

    # optimization
    steps: int = option(600, "Optimizer steps.", group=_OPTIM, low=0, high=10**9, common=True)
    time_budget: str | None = option(
        None, "Time for the whole run, 60s or 5m; chooses preset, batch and steps.", group=_OPTIM,
        kind=str, optional=True, common=True,
    )  # fmt: skip
    batch_size: int = option(
        64, "Rows a microbatch.", group=_OPTIM, low=1, high=1 << 20, common=True
    )
    grad_accum: int = option(1, "Microbatches a step.", group=_OPTIM, low=1, high=1 << 16)
    auto_batch: bool = option(
        False, "Where memory runs out, halve the microbatches and double their number"
        " (tensor only).", group=_OPTIM,
    )  # fmt: skip
    optimizer: str = option(
        "adamw", "muon: Muon for the blocks' matrices, AdamW for the rest (tensor only).",
        group=_OPTIM, choices=("sgd", "adamw", "muon"),
    )  # fmt: skip
    lr: float = option(
        8e-3, "Peak learning rate.", group=_OPTIM, low=0, high=1e4, low_open=True, common=True
    )
    matrix_lr: float = option(
        0.0, "Peak learning rate of the blocks' matrices; 0: lr.", group=_OPTIM, low=0, high=1e4
    )
    head_lr: float = option(
        0.0, "Peak learning rate of the output head; 0: lr.", group=_OPTIM, low=0, high=1e4
    )
    lr_schedule: str = option(
        "linear", "Shape of the warmdown.", group=_OPTIM,
        choices=("linear", "sqrt", "cosine", "constant"),
    )  # fmt: skip
    warmup_ratio: float = option(
        0.0, "Part of the steps that warm up linearly.", group=_OPTIM, low=0, high=1
    )
    warmdown_ratio: float = option(
        0.5, "Part of the steps, at the end, that warm down.", group=_OPTIM, low=0, high=1
    )
    final_lr_frac: float = option(
        0.0, "Learning rate at the end as a part of the peak.", group=_OPTIM, low=0, high=1
    )
    weight_decay: float = option(0.0, "Decoupled weight decay.", group=_OPTIM, low=0, high=1e3)
    beta1: float = option(
        0.9, "AdamW first-moment decay; SGD momentum.", group=_OPTIM, low=0, high=0.999999
    )
    muon_momentum: float = option(0.95, "Muon's momentum.", group=_OPTIM, low=0, high=0.999999)
    beta2: float = option(0.99, "AdamW second-moment decay.", group=_OPTIM, low=0, high=0.9999999)
    eps: float = option(1e-8, "AdamW epsilon.", group=_OPTIM, low=0, high=1, low_open=True)
    grad_clip: float = option(
        0.0, "Largest gradient norm; 0 is off.", group=_OPTIM, low=0, high=1e9
    )

    # run
    seed: int = option(
        1337, "Seed of every random draw.", group=_RUN, low=0, high=MAX_SEED, common=True
    )
    device: str = option(
        "auto", "Device of the tensor engine.", group=_RUN, choices=("auto", "cpu", "cuda", "mps"),
        common=True,
    )  # fmt: skip
    dtype: str = option(
        "auto", "auto: float64 scalar, bfloat16 on CUDA and where a CPU gains by it, else float32.",
        group=_RUN,
        choices=("auto", "float64", "float32", "bfloat16"), common=True,
    )  # fmt: skip
    numerics: str = option(
        "fast", "Scalar arithmetic: fast fuses, exact has microgpt's bits.", group=_RUN,
        choices=("fast", "exact"),
    )  # fmt: skip
    loss: str = option(
        "fused", "Tensor engine: the project's own loss kernels, or plain torch.", group=_RUN,
        choices=("fused", "torch"),
    )  # fmt: skip
    compile: str = option(
        "auto", "torch.compile for the steps (tensor only); auto: in long runs on CUDA.",
        group=_RUN, choices=("auto", "on", "off"),
    )  # fmt: skip
    threads: int = option(0, "CPU threads; 0: one a core.", group=_RUN, low=0, high=4096)
    deterministic: bool = option(
        False, "Same bits run after run on CUDA too (slower there).", group=_RUN
    )
    eval_every: int = option(
        200, "Steps between evaluations; 0: only at the start and end.", group=_RUN, low=0,
        high=10**9,
    )  # fmt: skip
    eval_tokens: int = option(
        0, "Tokens of the fixed evaluation set; 0: the whole validation part.", group=_RUN, low=0,
        high=10**12,
    )  # fmt: skip
    checkpoint_every: int = option(
        0, "Steps between checkpoints; 0: at each evaluation.", group=_RUN, low=0, high=10**9
    )
    memory_drift: float = option(
        2.0, "Resident memory may grow by this ratio during a run; 0 is off.", group=_RUN, low=0,
        high=1e6, output=True,
    )  # fmt: skip
    out: str | None = option(
        None, "Run folder; default: a new folder under runs/.", group=_RUN, kind=str,
        optional=True, output=True, common=True,
    )  # fmt: skip
    resume: bool = option(
        False, "Go on with the run in --out, or the newest one.", group=_RUN, output=True,
        common=True,
    )  # fmt: skip

    # sampling at the end of the run
    num_samples: int = option(
        10, "Samples shown at the end.", group=_SAMPLE, low=0, high=1 << 20, output=True
    )
    max_new_tokens: int = option(
        200, "Longest sample, in tokens.", group=_SAMPLE, low=1, high=1 << 24, output=True
    )
    temperature: float = option(
        0.8, "Sampling temperature.", group=_SAMPLE, low=0, high=1e4, low_open=True, output=True
    )
    top_k: int = option(
        0, "Sample among the k likeliest tokens; 0: all.", group=_SAMPLE, low=0, high=1 << 30,
        output=True,
    )  # fmt: skip
    top_p: float = option(
        1.0, "Sample among the likeliest tokens of this total probability.", group=_SAMPLE, low=0,
        high=1, low_open=True, output=True,
    )  # fmt: skip

    # What was given rather than filled in from the preset; a resume compares only that.
    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # `auto` asks for nothing in particular.
        given = frozenset(
            n for n in options_of(type(self)) if getattr(self, n) not in (UNSET, "auto")
        )
        object.__setattr__(self, "given", given)
        for name in options_of(type(self)):
            if name in given:
                self._check_choice(name)
        given_kind = self.model_kind
        engine = None if self.mode in (UNSET, "auto") else self.mode
        preset = _preset(self.preset, engine or "scalar", given_kind)
        if engine is None:
            engine = choose_engine(filled(self, PRESETS[preset]))[0]
            preset = _preset(self.preset, engine, given_kind)
        object.__setattr__(self, "mode", engine)
        object.__setattr__(self, "preset", preset)
        defaults = PRESETS[preset]
        if given_kind is not UNSET and given_kind != defaults["model_kind"]:
            raise errors.UnsupportedModelKind(
                f"preset {preset} does not support model_kind {given_kind};"
                f" use model_kind {defaults['model_kind']} or leave the preset out"
            )
        if self.numerics == "exact":  # it has programs in float64 alone
            defaults = {name: value for name, value in defaults.items() if name != "dtype"}
        fill(self, defaults)
        check_options(self)
        if not self.resume:  # else the saved config rules, and only what is given is compared
            self._check_together()
            check_supported(self)

    def _check_choice(self, name: str) -> None:
        value = getattr(self, name)
        option = options_of(type(self))[name]
        if not option.accepts(value):
            raise ConfigError(option.refusal(name, value))

    def _check_together(self) -> None:
        if self.time_budget is not None:
            budget_seconds(self.time_budget)
            usual = PRESETS[self.preset].get("steps", options_of(type(self))["steps"].default)
            if self.steps != usual:
                raise ConfigError(f"time_budget chooses steps; leave out steps, got {self.steps}")
            if processes.world() > 1:
                raise ConfigError(
                    f"time_budget must be of one process, got {processes.world()}; use steps"
                )
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd must be a multiple of n_head, got n_embd {self.n_embd} and n_head"
                f" {self.n_head}; give both"
            )
        if self.positions == "rope" and (self.n_embd // self.n_head) % 2:
            raise ConfigError(
                f"positions rope needs an even head size n_embd / n_head, got"
                f" {self.n_embd // self.n_head}; use positions learned or change n_head"
            )
        if self.warmup_ratio + self.warmdown_ratio > 1 and self.lr_schedule != "constant":
            raise ConfigError(
                f"warmup_ratio + warmdown_ratio must be <= 1, got {self.warmup_ratio} +"
                f" {self.warmdown_ratio}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Every field with its resolved value; `TrainConfig(**d)` builds an equal config."""
        return {name: getattr(self, name) for name in options_of(type(self))}

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def budget_seconds(text: str) -> float:
    """Seconds of a time like 90, 60s, 1.5m or 2h. Raises ConfigError for any other text.

    >>> budget_seconds("1.5m")
    90.0
    """
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([smh]?)", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"time_budget must be a time like 60s, 5m or 1h, got {text!r}")
    return seconds


def _preset(preset: Any, mode: str, model_kind: Any) -> str:
    """The preset that was named, or the one that follows engine and model."""
    if preset is not UNSET and preset != "auto":
        return str(preset)
    if model_kind == "bigram":
        return "bigram"
    return "pico" if mode == "scalar" else "mini"


# -------------------------------------------------------------------------- the other commands

_TRAIN = options_of(TrainConfig)


def _same(name: str, **changes: Any) -> Any:
    """The option of the same name in TrainConfig, so that it is written once."""
    return field(default=UNSET, metadata={"option": dataclasses.replace(_TRAIN[name], **changes)})


class _Checked:
    """Fill and check a config that has no presets."""

    __slots__ = ()

    def __post_init__(self) -> None:
        fill(self, {})
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig(_Checked):
    """What `nanochat sample` draws, and from which weights."""

    checkpoint: str | None = option(
        None, "Checkpoint or run folder; default: the newest run.", group=_SAMPLE, kind=str,
        optional=True, common=True,
    )  # fmt: skip
    prompt: str = option("", "Text to continue.", group=_SAMPLE, common=True)
    num_samples: int = _same("num_samples", default=1, low=1, common=True)
    max_new_tokens: int = _same("max_new_tokens", common=True)
    temperature: float = _same("temperature", common=True)
    top_k: int = _same("top_k", common=True)
    top_p: float = _same("top_p", common=True)
    seed: int = _same("seed")
    style_weight: float = option(
        1.0, "Logit bonus for phrases of the futuristic style, when trained with it.",
        group=_SAMPLE, low=0, high=100,
    )  # fmt: skip
    baseline: str = option(
        "none", "counts: the closed-form bigram of the training part instead of the weights.",
        group=_SAMPLE, choices=("none", "counts"), common=True,
    )  # fmt: skip
    data_dir: str | None = _same("data_dir")
    mode: str = _same("mode", help="Engine; auto: the one that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(_Checked):
    """What `nanochat eval` scores, and with which weights."""

    checkpoint: str | None = option(
        None, "Checkpoint or run folder; default: the newest run.", group=_DATA, kind=str,
        optional=True, common=True,
    )  # fmt: skip
    data: str | None = option(
        None, "Text to score; default: the validation part of the run.", group=_DATA, kind=str,
        optional=True, common=True,
    )  # fmt: skip
    documents: str = _same(
        "documents", common=True, help="What one document is; auto: what it was in training."
    )
    data_dir: str | None = _same("data_dir", common=True)
    batch_size: int = _same("batch_size", common=True)
    mode: str = _same("mode", help="Engine; auto: the one that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateConfig(_Checked):
    """A grid of training runs: the product of `vary`, times the seeds."""

    vary: tuple[str, ...] = option(
        (), "Option and its values: n_layer=1,2 (repeatable).", group=_RUN, common=True
    )
    seeds: int = option(
        3, "Seeds a variant: 1337, 1338, …", group=_RUN, low=1, high=10_000, common=True
    )
    jobs: int = option(1, "Runs at a time.", group=_RUN, low=1, high=1024, common=True)
    out: str | None = option(
        None, "Folder of the ablation; default: ablations/ and the varied options.", group=_RUN,
        kind=str, optional=True, common=True,
    )  # fmt: skip
