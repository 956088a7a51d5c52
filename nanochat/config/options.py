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

from nanochat.config.engine_choice import LINE_CORPORA, choose_engine
from nanochat.config.keep import parse_keep
from nanochat.config.option import (
    AUTO,
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
from nanochat.config.presets import CHOSEN_BY_TEXT, PRESETS
from nanochat.config.share import FITTED, parse_share
from nanochat.config.unsupported import UNSUPPORTED, check_has_network, check_supported
from nanochat.errors import ConfigError, UnsupportedModelKind
from nanochat.system import processes

__all__ = [
    "ABLATIONS_DIR",
    "AUTO",
    "CHECKPOINTS_DIR",
    "MAX_SEED",
    "PRESETS",
    "RENAMED",
    "RUNS_DIR",
    "UNSUPPORTED",
    "AblateConfig",
    "ARCHITECTURE",
    "BEST",
    "EvalConfig",
    "InfoConfig",
    "Option",
    "RunsCompareConfig",
    "RunsConfig",
    "RunsPruneConfig",
    "RunsRemoveConfig",
    "RunsShowConfig",
    "SampleConfig",
    "TABLE_SUFFIXES",
    "TrainConfig",
    "budget_seconds",
    "closest",
    "options_of",
    "preset_defaults",
    "resolve_preset",
    "with_new_names",
]

RUNS_DIR = "runs"
CHECKPOINTS_DIR = "checkpoints"
ABLATIONS_DIR = "ablations"
TABLE_SUFFIXES = (".jsonl", ".csv")  # of the files with a row per token
BEST = "best"  # the name of the checkpoint with the lowest validation loss

# Options of saved configs under their earlier names.
_EARLIER = {
    "past_embeds": "prev_token_tables",
    "ngram_rows": "hash_embed_rows",
    "ngram_longest": "hash_embed_longest",
    "ngram_offset": "ngram_share",
}
# Earlier names of options, which a message answers with the new one.
RENAMED = {
    **_EARLIER,
    "baseline": "from_counts",  # of sample; train has another option of this name
}

MAX_SEED = 2**32 - 1  # one word of the Philox key


def with_new_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved options under the names of this version."""
    # Of an option under both names, the earlier one stays and is refused as unknown.
    return {
        _EARLIER[name] if name in _EARLIER and _EARLIER[name] not in options else name: (
            _share_of_offset(value) if name == "ngram_offset" else value
        )
        for name, value in options.items()
    }


def _share_of_offset(value: Any) -> Any:
    """Return ngram_share of an earlier ngram_offset, which was -1 for auto."""
    return FITTED if value == AUTO else f"1,{value}"


# --------------------------------------------------------------------------------------- training

_MODEL, _DATA, _OPTIM, _RUN, _SAMPLE = "Model", "Data", "Optimization", "Run", "Sampling"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The options of one training run, complete and checked.

    Values that are not given come from `preset`. Raises ConfigError for a value and
    UnsupportedOption for a combination of values.

    If the text is to choose the preset, the values are those of the engine's default preset until
    then. A combination that this preset refuses and another one accepts raises no error here:
    `refusal` holds it, and `check_complete` raises it.

    Example:
        >>> TrainConfig(preset="microgpt", steps=100).n_embd
        16
    """

    # model
    mode: str = option(
        "auto", "Engine; auto: the faster one for the model and the text.", group=_MODEL,
        choices=("auto", "scalar", "tensor"), common=True,
    )  # fmt: skip
    model_kind: str = option(
        "mini-gpt", "Kind of model; ngram: counted n-grams alone, without a network.", group=_MODEL,
        choices=("bigram", "mini-gpt", "ngram"), common=True,
    )  # fmt: skip
    preset: str = option(
        "auto", "Named set of defaults; auto: chosen by the text, the engine and the time.",
        group=_MODEL, choices=("auto", *PRESETS), common=True,
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
    prev_token_tables: int = option(
        0, "Previous tokens whose embeddings are added to each token's embedding (tensor only).",
        group=_MODEL, low=0, high=64,
    )  # fmt: skip
    hash_embed_rows: int = option(
        0,
        "Rows of a hashed table of n-gram embeddings, added to the token embedding; 0: no table"
        " (tensor only).", group=_MODEL, low=0, high=1 << 24,
    )  # fmt: skip
    hash_embed_longest: int = option(
        4, "Tokens in the longest n-gram of hash_embed_rows; the shortest has two.", group=_MODEL,
        low=2, high=64,
    )  # fmt: skip
    ngram_order: int = option(
        0,
        "Order of the counted n-grams that the network is mixed with, or of those of model_kind"
        " ngram: N − 1 tokens of context and the predicted one; auto: the best order for the text,"
        " 0: the network alone.", group=_MODEL,
        low=0, high=16, auto=True, also=("order",), common=True,
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
    data: tuple[str, ...] = option(
        ("names",),
        "Text to train on: file, folder, URL, - (standard input) or registry name; repeatable.",
        group=_DATA, path=True, whole=True, output=True, common=True,
    )  # fmt: skip
    data_dir: str | None = option(
        None, "Folder to search for a registry dataset before downloading it.", group=_DATA,
        path=True, kind=str, optional=True, output=True,
    )  # fmt: skip
    text_column: str | None = option(
        None, "Column of records that holds the text; default: text, content or messages.",
        group=_DATA, kind=str, optional=True,
    )  # fmt: skip
    documents: str = option(
        "auto", "Unit of text that is one document; auto: chosen by the text.",
        group=_DATA, choices=("auto", "file", "line", "paragraph"),
    )  # fmt: skip
    separator: str | None = option(
        None, "Text between two documents, such as a line of % alone; instead of --documents.",
        group=_DATA, kind=str, optional=True,
    )  # fmt: skip
    deduplicate: bool = option(
        False, "Remove documents that are exact copies of earlier ones.", group=_DATA
    )
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
    schedule_points: str = option(
        "",
        "Fraction of the schedule after each step, as STEP:FRACTION pairs; recorded by a run with"
        " a time budget, so that it can be repeated.", group=_OPTIM,
    )  # fmt: skip
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
    ema: float = option(
        0.0,
        "Decay of an exponential moving average of the weights, which is evaluated, sampled and"
        " kept in place of the weights; 0: off.", group=_OPTIM, low=0, high=0.999999,
    )  # fmt: skip
    ngram_share: str = option(
        FITTED,
        "Correction of the counts' share after training, as SCALE,OFFSET of its logarithm against"
        " the network's: in training, the network has seen the text and the counts have not; auto:"
        " fitted to the validation part at each evaluation, or without such a part 1 and an offset"
        " by the number of epochs.", group=_OPTIM,
    )  # fmt: skip
    patience: int = option(
        0, "Stop after this many evaluations without a lower validation loss; 0: never.",
        group=_OPTIM, low=0, high=10**9, common=True,
    )  # fmt: skip

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
        AUTO, "Steps between evaluations; -1: about twenty per run, 0: only at the start and end.",
        group=_RUN, low=AUTO, high=10**9,
    )  # fmt: skip
    eval_tokens: int = option(
        AUTO,
        "Tokens of the fixed evaluation set; -1: as many as a tenth of the training time can score,"
        " 0: all validation text.", group=_RUN, low=AUTO, high=10**12,
    )  # fmt: skip
    baseline: bool = option(
        True, "Also score a smoothed n-gram model of the training text, for comparison.",
        group=_RUN, output=True,
    )  # fmt: skip
    checkpoint_every: int = option(
        0,
        "Steps between checkpoints; 0: at evaluations, every ten seconds or less often.",
        group=_RUN, low=0, high=10**9,
    )  # fmt: skip
    keep: str = option(
        "last:2,best",
        "Checkpoints that stay on disk: all, or the newest N as in last:3. The best always stays.",
        group=_RUN, output=True,
    )  # fmt: skip
    log: str = option(
        "none",
        "Also write the figures for a viewer; tensorboard: event files in the run folder (extra"
        " tensorboard).", group=_RUN, choices=("none", "tensorboard"), output=True,
    )  # fmt: skip
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

    init_from: str | None = option(
        None,
        "Run to start from, or RUN@last or RUN@STEP: its model, tokenizer and best weights, for any"
        " text.", group=_RUN, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    extend_vocabulary: bool = option(
        False, "Add the text's new characters to the vocabulary of init_from.", group=_RUN
    )
    final_on_all: str | None = option(
        None,
        "Run to train anew on all of its text, validation included, with its options and for its"
        " best step.", group=_RUN, path=True, kind=str, optional=True, output=True,
    )  # fmt: skip

    # sampling at the end of the run
    num_samples: int = option(
        10, "Number of samples to write.", group=_SAMPLE, low=0, high=1 << 20, output=True
    )
    max_new_tokens: int = option(
        200, "Maximum length of a sample, in tokens.", group=_SAMPLE, low=1, high=1 << 24,
        output=True,
    )  # fmt: skip
    temperature: float = option(
        0.8, "Sampling temperature; 0: always the most likely token.", group=_SAMPLE, low=0,
        high=1e4, output=True,
    )  # fmt: skip
    top_k: int = option(
        0, "Sample from the k most likely tokens; 0: all.", group=_SAMPLE, low=0, high=1 << 30,
        output=True,
    )  # fmt: skip
    top_p: float = option(
        1.0, "Sample from the most likely tokens with this total probability.", group=_SAMPLE,
        low=0, high=1, low_open=True, output=True,
    )  # fmt: skip
    stop: tuple[str, ...] = option(
        (), "Text that ends a sample and is not part of it; repeatable.", group=_SAMPLE,
        whole=True, output=True,
    )  # fmt: skip

    # Names of the options that were given, without those given as auto where auto is the default;
    # a resume compares only these.
    given: frozenset[str] = field(init=False, repr=False, compare=False)
    # Why the values so far cannot be trained, if the text may choose a preset that can.
    refusal: ConfigError | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = parse_given(self)
        mode, preset = resolve_preset(given)
        defaults = preset_defaults(preset, given)
        assign(self, {**defaults, **given, "mode": mode, "preset": preset})
        # An option that is auto anyway is not given. No option has -1 as another value.
        autos = ("auto", AUTO)
        unasked = {name for name in given if given[name] in autos and defaults[name] in autos}
        assign(self, {"given": frozenset(given.keys() - unasked)})
        assign(self, {"refusal": None})
        self._check_start()
        if (
            self.resume
            or self.final_on_all is not None
            or (self.init_from is not None and not self.given >= ARCHITECTURE)
        ):
            return  # the saved config applies, and only given options are compared with it
        parse_keep(self.keep)
        parse_share(self.ngram_share)
        self._check_time_budget()
        check_separator(self.separator, self.documents)
        try:
            check_has_network(self, defaults)
            self._check_heads()
            self._check_schedule()
            check_supported(self)
        except ConfigError as error:
            if not (self._leaves_preset_to_text() and _some_preset_accepts(given)):
                raise
            assign(self, {"refusal": error})

    def check_complete(self) -> None:
        """Raise the error of a combination that only another preset would accept."""
        if self.refusal is not None:
            raise self.refusal

    def _leaves_preset_to_text(self) -> bool:
        if "preset" in self.given or self.model_kind != "mini-gpt":
            return False
        asks = self.time_budget is not None or "mode" in self.given or self.numerics == "exact"
        return asks or not set(self.data) <= set(LINE_CORPORA)

    def _check_start(self) -> None:
        if self.resume and self.init_from is not None:
            raise ConfigError(
                "resume continues a run with its own weights, init_from starts a new one; leave one"
                f" out, got init_from {shown(self.init_from)}"
            )
        if self.final_on_all is not None:
            for name in ("resume", "init_from", "time_budget"):
                if value := getattr(self, name):
                    raise ConfigError(
                        f"final_on_all repeats the training of a run; leave {name} out, got"
                        f" {shown(value)}"
                    )
        if self.extend_vocabulary and self.init_from is None and not self.resume:
            raise ConfigError("extend_vocabulary needs init_from; add init_from or leave it out")

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
                f" {self.warmdown_ratio}; give both"
            )
        if self.schedule_points:
            from nanochat.config.schedule_points import SchedulePoints  # few runs have any

            SchedulePoints.parse(self.schedule_points)
            if self.time_budget is not None:
                raise ConfigError(
                    "time_budget measures its own schedule_points, got both; leave one of them out"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return every option by name; `TrainConfig(**d)` builds an equal config."""
        return {name: getattr(self, name) for name in options_of(type(self))}

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


# The options that the weights and the tokenizer of a model depend on. A config that starts from
# another run is complete when it gives all of them.
ARCHITECTURE = frozenset({
    "model_kind", "preset", "n_layer", "n_head", "n_embd", "block_size", "activation", "positions",
    "prev_token_tables", "hash_embed_rows", "hash_embed_longest", "ngram_order", "tie_lm_head",
    "input_rmsnorm", "qk_norm", "logit_softcap", "init_std", "zero_init", "tokenizer", "vocab_size",
})  # fmt: skip


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


def _some_preset_accepts(given: Mapping[str, Any]) -> bool:
    """Return whether the text may choose a preset with which the given options can be trained."""
    # The choice finds heads for a hidden size that is given alone.
    options = {"n_head": 1, **given} if "n_embd" in given else given
    for preset in CHOSEN_BY_TEXT:
        try:
            TrainConfig(**{**options, "preset": preset})
        except ConfigError:
            continue
        return True
    return False


def _preset_for(mode: str, given: Mapping[str, Any]) -> str:
    """Return the named preset, or the default preset of the engine and model kind."""
    if given.get("preset", "auto") != "auto":
        return str(given["preset"])
    if given.get("model_kind") in ("bigram", "ngram"):
        return str(given["model_kind"])
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


def check_separator(separator: str | None, documents: str) -> None:
    """Raise ConfigError for a separator without a character, or next to another unit."""
    if separator == "":
        raise ConfigError("separator must have at least one character, got ''; leave it out")
    if separator is not None and documents != "auto":
        raise ConfigError(
            f"separator and documents both set the unit of a document, got separator"
            f" {shown(separator)} and documents {documents}; leave one out"
        )


class _WithoutPreset:
    """Complete and check a config that has no presets."""

    __slots__ = ()

    def __post_init__(self) -> None:
        assign(self, {**defaults_of(type(self), {}), **parse_given(self)})


def _run_option(group: str) -> Any:
    return option(
        None,
        "Run folder, its name below runs/, or a checkpoint folder; default: the newest finished"
        " run.", group=group, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip


def _checkpoint_option(group: str) -> Any:
    return option(
        BEST, "Checkpoint of the run: best, last, a step, or the path of a checkpoint or run.",
        group=group, path=True, common=True,
    )  # fmt: skip


def _check_adapt(config: SampleConfig | EvalConfig) -> None:
    if config.adapt and config.network_only:
        raise ConfigError("adapt lets the counts learn, which network_only leaves out; use one")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig(_WithoutPreset):
    """The options of `nanochat sample`."""

    run: str | None = _run_option(_SAMPLE)
    checkpoint: str = _checkpoint_option(_SAMPLE)
    prompt: str = option("", "Text to continue.", group=_SAMPLE, common=True)
    num_samples: int = _same("num_samples", default=1, low=1, common=True)
    max_new_tokens: int = _same("max_new_tokens", common=True)
    temperature: float = _same("temperature", common=True)
    top_k: int = _same("top_k", common=True)
    top_p: float = _same("top_p", common=True)
    stop: tuple[str, ...] = _same("stop", common=True)
    seed: int = _same("seed")
    style_weight: float = option(
        1.0, "Logit bonus for phrases of the futuristic style, if the model was trained with it.",
        group=_SAMPLE, low=0, high=100,
    )  # fmt: skip
    adapt: bool = option(
        False, "Let the counts of a model with ngram_order grow with the prompt and the sample.",
        group=_SAMPLE, common=True,
    )  # fmt: skip
    from_counts: bool = option(
        False, "Sample from bigram counts of the training text instead of the weights.",
        group=_SAMPLE, common=True,
    )  # fmt: skip
    network_only: bool = option(
        False, "Sample from the network of a run with ngram_order without its counts.",
        group=_SAMPLE, common=True,
    )  # fmt: skip
    explain: bool = option(
        False, "Show for each token the likeliest tokens, and what network and counts each said.",
        group=_SAMPLE, common=True,
    )  # fmt: skip
    report_copies: int = option(
        0, "Mark spans of at least this many tokens that the training text also has; 0: none.",
        group=_SAMPLE, low=0, high=1 << 20, common=True,
    )  # fmt: skip
    data_dir: str | None = _same("data_dir")
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")

    def __post_init__(self) -> None:
        _WithoutPreset.__post_init__(self)
        if self.from_counts and self.network_only:
            raise ConfigError(
                "from_counts samples from counts alone and network_only from the network alone;"
                " leave one out"
            )
        if self.adapt and self.from_counts:
            raise ConfigError("adapt has no effect with from_counts; leave one of them out")
        _check_adapt(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(_WithoutPreset):
    """The options of `nanochat eval`."""

    run: str | None = _run_option(_DATA)
    checkpoint: str = _checkpoint_option(_DATA)
    data: tuple[str, ...] | None = option(
        None, "Text to score; default: the validation text of the run; repeatable.", group=_DATA,
        path=True, whole=True, kind=tuple, optional=True, common=True,
    )  # fmt: skip
    text_column: str | None = _same("text_column")
    documents: str = _same(
        "documents", common=True, help="Unit of text that is one document; auto: as in training."
    )
    separator: str | None = _same("separator")
    data_dir: str | None = _same("data_dir", common=True)
    adapt: bool = option(
        False, "Let the model learn from each piece of the text after scoring it.", group=_DATA,
        common=True,
    )  # fmt: skip
    per_token: str | None = option(
        None, "File for the loss of every token, .jsonl or .csv, to compare two models in pairs.",
        group=_DATA, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    baselines: bool = option(
        False, "Also score n-gram counts and compressors that read the training text.",
        group=_DATA, common=True,
    )  # fmt: skip
    network_only: bool = option(
        False, "Score the network of a run with ngram_order without its counts, and then with"
        " them.", group=_DATA, common=True,
    )  # fmt: skip
    batch_size: int = _same("batch_size", common=True)
    mode: str = _same("mode", help="Engine; auto: the engine that trained the checkpoint.")
    device: str = _same("device")
    dtype: str = _same("dtype")
    threads: int = _same("threads")

    def __post_init__(self) -> None:
        _WithoutPreset.__post_init__(self)
        _check_adapt(self)
        check_separator(self.separator, self.documents)
        if self.per_token is not None and not self.per_token.lower().endswith(TABLE_SUFFIXES):
            raise ConfigError(
                f"per_token must be a file that ends in {' or '.join(TABLE_SUFFIXES)}, got"
                f" {shown(self.per_token)}"
            )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoConfig(_WithoutPreset):
    """The options of `nanochat info`."""

    run: str | None = option(
        None, "Also describe the counts of this run: a folder, or a name below runs/.", group=_RUN,
        path=True, kind=str, optional=True, common=True,
    )  # fmt: skip


# ------------------------------------------------------------------------------------ nanochat runs


def _dir_option() -> Any:
    return option(
        RUNS_DIR, "Folder that holds the runs.", group=_RUN, path=True, kind=str, common=True
    )


def _runs_option(help: str) -> Any:
    return option((), help, group=_RUN, path=True, common=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsConfig(_WithoutPreset):
    """The options of `nanochat runs`, which lists runs."""

    dir: str = _dir_option()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsShowConfig(_WithoutPreset):
    """The options of `nanochat runs show`."""

    run: str | None = _run_option(_RUN)
    dir: str = _dir_option()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsCompareConfig(_WithoutPreset):
    """The options of `nanochat runs compare`."""

    runs: tuple[str, ...] = _runs_option("Runs to compare, two or more.")
    out: str | None = option(
        None, "Picture of the curves; default: compare.svg in the folder of the runs.", group=_RUN,
        path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    dir: str = _dir_option()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsRemoveConfig(_WithoutPreset):
    """The options of `nanochat runs remove`."""

    runs: tuple[str, ...] = _runs_option("Runs to remove.")
    yes: bool = option(False, "Remove without asking.", group=_RUN, common=True)
    dir: str = _dir_option()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsPruneConfig(_WithoutPreset):
    """The options of `nanochat runs prune`."""

    runs: tuple[str, ...] = _runs_option("Runs whose checkpoints to remove; default: all runs.")
    keep: str = option(
        "last:2,best",
        "Checkpoints to keep: last:N for the last N, best for the one with the lowest validation"
        " loss, or all. The best and the newest are always kept.", group=_RUN, common=True,
    )  # fmt: skip
    dir: str = _dir_option()
