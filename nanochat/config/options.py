"""The options of every command: type, default, help text and check, declared once.

A config is complete as soon as it exists: values that are not given come from its preset, `auto`
values that need no device are resolved, and every value and combination has been checked. The
command line, the environment, config files and Python all build configs through these
constructors, so all of them refuse the same mistakes in the same words.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat.config.engine_choice import choose_engine
from nanochat.config.option import (
    UNSET,
    Option,
    assign,
    closest,
    defaults_of,
    option,
    options_of,
    parse_given,
    shown,
)
from nanochat.config.presets import PRESETS
from nanochat.config.unsupported import UNSUPPORTED, check_supported
from nanochat.errors import ConfigError, UnsupportedModelKind
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
    "closest",
    "options_of",
    "preset_defaults",
    "resolve_preset",
]

RUNS_DIR = "runs"
CHECKPOINTS_DIR = "checkpoints"
ABLATIONS_DIR = "ablations"

MAX_SEED = 2**32 - 1  # one word of the Philox key

# --------------------------------------------------------------------------------------- training

_MODEL, _DATA, _OPTIM, _RUN, _SAMPLE = "Model", "Data", "Optimization", "Run", "Sampling"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The options of one training run, complete and checked.

    Values that are not given come from `preset`. Raises ConfigError for a value and
    UnsupportedOption for a combination of values. Example:

    >>> TrainConfig(preset="microgpt", steps=100).n_embd
    16
    """

    # model
    mode: str = option(
        "auto", "Engine; auto: the faster one for the model and the text.", group=_MODEL,
        choices=("auto", "scalar", "tensor"), common=True,
    )  # fmt: skip
    model_kind: str = option(
        "mini-gpt", "Kind of model.", group=_MODEL, choices=("bigram", "mini-gpt"), common=True
    )
    preset: str = option(
        "auto", "Named set of defaults; auto: chosen by mode and model kind.", group=_MODEL,
        choices=("auto", *PRESETS), common=True,
    )  # fmt: skip
    n_layer: int = option(
        2, "Number of transformer blocks.", group=_MODEL, low=0, high=256, common=True
    )
    n_head: int = option(
        4, "Attention heads per block.", group=_MODEL, low=1, high=256, common=True
    )
    n_embd: int = option(64, "Hidden size.", group=_MODEL, low=1, high=65536, common=True)
    block_size: int = option(
        16, "Context window, in tokens.", group=_MODEL, low=1, high=1 << 20, common=True
    )
    activation: str = option(
        "relu2", "Activation of the MLP.", group=_MODEL, choices=("relu", "relu2")
    )
    positions: str = option("rope", "Position encoding.", group=_MODEL, choices=("learned", "rope"))
    past_embeds: int = option(
        0, "Previous tokens whose embeddings are added to each token's embedding (tensor only).",
        group=_MODEL, low=0, high=64,
    )  # fmt: skip
    ngram_rows: int = option(
        0,
        "Rows of a hashed table of n-gram embeddings, added to the token embedding; 0: no table"
        " (tensor only).", group=_MODEL, low=0, high=1 << 24,
    )  # fmt: skip
    ngram_longest: int = option(
        4, "Tokens in the longest n-gram of ngram_rows; the shortest has two.", group=_MODEL, low=2,
        high=64,
    )  # fmt: skip
    tie_lm_head: bool = option(
        False, "Share the weights of the output head and the token embedding.", group=_MODEL
    )
    input_rmsnorm: bool = option(True, "Apply RMSNorm to the embedding.", group=_MODEL)
    qk_norm: bool = option(
        True, "Apply RMSNorm to the queries and keys of each head.", group=_MODEL
    )
    logit_softcap: float = option(
        0.0, "Replace the logits by cap*tanh(logits/cap); 0: off.", group=_MODEL, low=0, high=1e6
    )
    init_std: float = option(
        0.08, "Standard deviation of the initial weights.", group=_MODEL, low=0, high=100,
        low_open=True,
    )  # fmt: skip
    zero_init: bool = option(
        False, "Initialize the output projections of attention and MLP to zero.", group=_MODEL
    )
    dropout: float = option(
        0.0, "Dropout of embedding, attention and MLP outputs (tensor only).", group=_MODEL, low=0,
        high=0.95,
    )  # fmt: skip

    # data
    data: str = option(
        "names",
        "Text to train on: a file, a folder, a .jsonl or .parquet file, or a registry name.",
        group=_DATA, path=True, common=True,
    )  # fmt: skip
    data_dir: str | None = option(
        None, "Folder to search for a registry dataset before downloading it.", group=_DATA,
        path=True, kind=str, optional=True, output=True,
    )  # fmt: skip
    documents: str = option(
        "auto", "Unit of text that is one document; auto: line for name lists, otherwise file.",
        group=_DATA, choices=("auto", "file", "line", "paragraph"),
    )  # fmt: skip
    tokenizer: str = option(
        "char", "Unit of a token; bpe: word pieces learned from the training text.", group=_DATA,
        choices=("char", "byte", "bpe"),
    )  # fmt: skip
    vocab_size: int = option(
        1024, "Tokens of tokenizer bpe, including the 256 bytes and BOS.", group=_DATA, low=258,
        high=1 << 17,
    )  # fmt: skip
    val_fraction: float = option(
        0.1, "Fraction of the documents held out for validation; 0: none.", group=_DATA, low=0,
        high=0.99,
    )  # fmt: skip
    style: str = option(
        "classic", "Style; futuristic: add a small style corpus to the training text.", group=_DATA,
        choices=("classic", "futuristic"), common=True,
    )  # fmt: skip
    batching: str = option(
        "auto",
        "How documents become rows; auto: windows for long documents, packed for short ones.",
        group=_DATA, choices=("auto", "windows", "packed", "documents"),
    )  # fmt: skip

    # optimization
    steps: int = option(
        600, "Number of optimizer steps.", group=_OPTIM, low=0, high=10**9, common=True
    )
    time_budget: str | None = option(
        None, "Time for the whole run, such as 60s or 5m; chooses preset, batch and steps.",
        group=_OPTIM, kind=str, optional=True, common=True,
    )  # fmt: skip
    batch_size: int = option(
        64, "Rows per microbatch.", group=_OPTIM, low=1, high=1 << 20, common=True
    )
    grad_accum: int = option(
        1, "Gradient accumulation: microbatches per step.", group=_OPTIM, low=1, high=1 << 16
    )
    auto_batch: bool = option(
        False, "If memory runs out, halve the microbatch and double grad_accum (tensor only).",
        group=_OPTIM,
    )  # fmt: skip
    optimizer: str = option(
        "adamw",
        "Optimizer; muon: Muon for the matrices of the blocks, AdamW for the rest (tensor only).",
        group=_OPTIM, choices=("sgd", "adamw", "muon"),
    )  # fmt: skip
    lr: float = option(
        8e-3, "Peak learning rate.", group=_OPTIM, low=0, high=1e4, low_open=True, common=True
    )
    matrix_lr: float = option(
        0.0, "Peak learning rate of the matrices of the blocks; 0: lr.", group=_OPTIM, low=0,
        high=1e4,
    )  # fmt: skip
    head_lr: float = option(
        0.0, "Peak learning rate of the output head; 0: lr.", group=_OPTIM, low=0, high=1e4
    )
    lr_schedule: str = option(
        "linear", "Shape of the learning-rate decay.", group=_OPTIM,
        choices=("linear", "sqrt", "cosine", "constant"),
    )  # fmt: skip
    warmup_ratio: float = option(
        0.0, "Fraction of the steps with a linear warmup.", group=_OPTIM, low=0, high=1
    )
    warmdown_ratio: float = option(
        0.5, "Fraction of the steps, at the end, over which the learning rate decays.",
        group=_OPTIM, low=0, high=1,
    )  # fmt: skip
    final_lr_frac: float = option(
        0.0, "Final learning rate as a fraction of the peak.", group=_OPTIM, low=0, high=1
    )
    weight_decay: float = option(0.0, "Decoupled weight decay.", group=_OPTIM, low=0, high=1e3)
    beta1: float = option(
        0.9, "Decay of the first moment of AdamW; momentum of SGD.", group=_OPTIM, low=0,
        high=0.999999,
    )  # fmt: skip
    muon_momentum: float = option(0.95, "Momentum of Muon.", group=_OPTIM, low=0, high=0.999999)
    beta2: float = option(
        0.99, "Decay of the second moment of AdamW.", group=_OPTIM, low=0, high=0.9999999
    )
    eps: float = option(1e-8, "Epsilon of AdamW.", group=_OPTIM, low=0, high=1, low_open=True)
    grad_clip: float = option(0.0, "Largest gradient norm; 0: off.", group=_OPTIM, low=0, high=1e9)

    # run
    seed: int = option(
        1337, "Seed of all random numbers.", group=_RUN, low=0, high=MAX_SEED, common=True
    )
    device: str = option(
        "auto", "Device of the tensor engine.", group=_RUN, choices=("auto", "cpu", "cuda", "mps"),
        common=True,
    )  # fmt: skip
    dtype: str = option(
        "auto",
        "Number format; auto: float64 (scalar), bfloat16 on CUDA and on CPUs where it is faster,"
        " otherwise float32.", group=_RUN, choices=("auto", "float64", "float32", "bfloat16"),
        common=True,
    )  # fmt: skip
    numerics: str = option(
        "fast", "Arithmetic of the scalar engine; exact: bit-identical to microgpt, fast: fused.",
        group=_RUN, choices=("fast", "exact"),
    )  # fmt: skip
    loss: str = option(
        "fused", "Loss of the tensor engine; fused: this project's kernels, torch: plain torch.",
        group=_RUN, choices=("fused", "torch"),
    )  # fmt: skip
    compile: str = option(
        "auto", "Use torch.compile (tensor only); auto: for long runs on CUDA.", group=_RUN,
        choices=("auto", "on", "off"),
    )  # fmt: skip
    threads: int = option(0, "CPU threads; 0: one per core.", group=_RUN, low=0, high=4096)
    deterministic: bool = option(
        False, "Make runs bit-identical on CUDA too, where this is slower.", group=_RUN
    )
    eval_every: int = option(
        200, "Steps between evaluations; 0: only at the start and end.", group=_RUN, low=0,
        high=10**9,
    )  # fmt: skip
    eval_tokens: int = option(
        0, "Tokens of the fixed evaluation set; 0: all validation text.", group=_RUN, low=0,
        high=10**12,
    )  # fmt: skip
    baseline: bool = option(
        True, "Also score a smoothed n-gram model of the training text, for comparison.",
        group=_RUN, output=True,
    )  # fmt: skip
    checkpoint_every: int = option(
        0, "Steps between checkpoints; 0: at each evaluation.", group=_RUN, low=0, high=10**9
    )
    memory_drift: float = option(
        2.0, "Largest growth of resident memory during a run, as a ratio; 0: off.", group=_RUN,
        low=0, high=1e6, output=True,
    )  # fmt: skip
    out: str | None = option(
        None, "Run folder; default: a new folder in runs/.", group=_RUN, path=True, kind=str,
        optional=True, output=True, common=True,
    )  # fmt: skip
    resume: bool = option(
        False, "Resume the run in --out, or the newest run.", group=_RUN, output=True, common=True
    )

    # sampling at the end of the run
    num_samples: int = option(
        10, "Number of samples to write.", group=_SAMPLE, low=0, high=1 << 20, output=True
    )
    max_new_tokens: int = option(
        200, "Maximum length of a sample, in tokens.", group=_SAMPLE, low=1, high=1 << 24,
        output=True,
    )  # fmt: skip
    temperature: float = option(
        0.8, "Sampling temperature.", group=_SAMPLE, low=0, high=1e4, low_open=True, output=True
    )
    top_k: int = option(
        0, "Sample from the k most likely tokens; 0: all.", group=_SAMPLE, low=0, high=1 << 30,
        output=True,
    )  # fmt: skip
    top_p: float = option(
        1.0, "Sample from the most likely tokens with this total probability.", group=_SAMPLE,
        low=0, high=1, low_open=True, output=True,
    )  # fmt: skip

    # Names of the options that were given and are not `auto`; a resume compares only these.
    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = parse_given(self)
        mode, preset = resolve_preset(given)
        assign(self, {**preset_defaults(preset, given), **given, "mode": mode, "preset": preset})
        assign(self, {"given": frozenset(name for name in given if given[name] != "auto")})
        if self.resume:
            return  # the saved config applies, and only given options are compared with it
        self._check_time_budget()
        self._check_heads()
        self._check_schedule()
        check_supported(self)

    def _check_time_budget(self) -> None:
        if self.time_budget is None:
            return
        budget_seconds(self.time_budget)
        if self.steps != defaults_of(TrainConfig, PRESETS[self.preset])["steps"]:
            raise ConfigError(f"time_budget chooses steps; leave out steps, got {self.steps}")
        if processes.world() > 1:
            raise ConfigError(
                f"time_budget needs a single process, got {processes.world()} processes; use steps"
            )

    def _check_heads(self) -> None:
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd must be a multiple of n_head, got n_embd {self.n_embd} and n_head"
                f" {self.n_head}; give both"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ConfigError(
                f"positions rope needs an even head size n_embd / n_head, got {self.head_dim};"
                " use positions learned or change n_head"
            )

    def _check_schedule(self) -> None:
        if self.warmup_ratio + self.warmdown_ratio > 1 and self.lr_schedule != "constant":
            raise ConfigError(
                f"warmup_ratio + warmdown_ratio must be <= 1, got {self.warmup_ratio} +"
                f" {self.warmdown_ratio}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return every option by name; `TrainConfig(**d)` builds an equal config."""
        return {name: getattr(self, name) for name in options_of(type(self))}

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


def resolve_preset(given: Mapping[str, Any]) -> tuple[str, str]:
    """Return the engine and the preset that follow from the given, parsed options.

    Raises UnsupportedModelKind if the preset is for another kind of model.
    """
    mode = given.get("mode", "auto")
    preset = _preset_for("scalar" if mode == "auto" else mode, given)
    if mode == "auto":
        mode = choose_engine({**preset_defaults(preset, given), **given})[0]
        preset = _preset_for(mode, given)
    kind = PRESETS[preset]["model_kind"]
    if given.get("model_kind", kind) != kind:
        raise UnsupportedModelKind(
            f"preset {preset} does not support model_kind {given['model_kind']}; use model_kind"
            f" {kind} or leave the preset out"
        )
    return mode, preset


def _preset_for(mode: str, given: Mapping[str, Any]) -> str:
    """Return the named preset, or the default preset of the engine and model kind."""
    if given.get("preset", "auto") != "auto":
        return str(given["preset"])
    if given.get("model_kind") == "bigram":
        return "bigram"
    return "pico" if mode == "scalar" else "mini"


def preset_defaults(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default of every training option under a preset and the given options."""
    values = dict(PRESETS[preset])
    if given.get("numerics") == "exact":  # its programs need float64, not the dtype of a preset
        values.pop("dtype", None)
    return defaults_of(TrainConfig, values)


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def budget_seconds(text: str) -> float:
    """Return the seconds of a time like 90, 60s, 1.5m or 2h. Raises ConfigError for other text.

    >>> budget_seconds("1.5m")
    90.0
    """
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([smh]?)", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"time_budget must be a time like 60s, 5m or 1h, got {shown(text)}")
    return seconds


# -------------------------------------------------------------------------- the other commands

_TRAIN = options_of(TrainConfig)


def _same(name: str, **changes: Any) -> Any:
    """Declare the same option as in TrainConfig, with changes."""
    return field(default=UNSET, metadata={"option": dataclasses.replace(_TRAIN[name], **changes)})


class _WithoutPreset:
    """Complete and check a config that has no presets."""

    __slots__ = ()

    def __post_init__(self) -> None:
        assign(self, {**defaults_of(type(self), {}), **parse_given(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig(_WithoutPreset):
    """The options of `nanochat sample`."""

    checkpoint: str | None = option(
        None, "Checkpoint or run folder; default: the newest run.", group=_SAMPLE, path=True,
        kind=str, optional=True, common=True,
    )  # fmt: skip
    prompt: str = option("", "Text to continue.", group=_SAMPLE, common=True)
    num_samples: int = _same("num_samples", default=1, low=1, common=True)
    max_new_tokens: int = _same("max_new_tokens", common=True)
    temperature: float = _same("temperature", common=True)
    top_k: int = _same("top_k", common=True)
    top_p: float = _same("top_p", common=True)
    seed: int = _same("seed")
    style_weight: float = option(
        1.0, "Logit bonus for phrases of the futuristic style, if the model was trained with it.",
        group=_SAMPLE, low=0, high=100,
    )  # fmt: skip
    baseline: str = option(
        "none",
        "Baseline; counts: sample from bigram counts of the training text, not from the weights.",
        group=_SAMPLE, choices=("none", "counts"), common=True,
    )  # fmt: skip
    data_dir: str | None = _same("data_dir")
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(_WithoutPreset):
    """The options of `nanochat eval`."""

    checkpoint: str | None = option(
        None, "Checkpoint or run folder; default: the newest run.", group=_DATA, path=True,
        kind=str, optional=True, common=True,
    )  # fmt: skip
    data: str | None = option(
        None, "Text to score; default: the validation text of the run.", group=_DATA, path=True,
        kind=str, optional=True, common=True,
    )  # fmt: skip
    documents: str = _same(
        "documents", common=True, help="Unit of text that is one document; auto: as in training."
    )
    data_dir: str | None = _same("data_dir", common=True)
    batch_size: int = _same("batch_size", common=True)
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateConfig(_WithoutPreset):
    """The options of `nanochat ablate`: a grid of training runs.

    The grid is the product of `vary`, times the seeds.
    """

    vary: tuple[str, ...] = option(
        (), "Option to vary and its values, such as n_layer=1,2; repeatable.", group=_RUN,
        common=True,
    )  # fmt: skip
    seeds: int = option(
        3, "Seeds per variant: 1337, 1338, …", group=_RUN, low=1, high=10_000, common=True
    )
    jobs: int = option(1, "Runs at the same time.", group=_RUN, low=1, high=1024, common=True)
    out: str | None = option(
        None, "Folder of the ablation; default: ablations/ and the names of the varied options.",
        group=_RUN, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
