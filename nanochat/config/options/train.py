"""The options of one training run: declarations, and how a preset completes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from nanochat.config.engine_choice import LINE_CORPORA, choose_engine
from nanochat.config.keep import parse_keep
from nanochat.config.option import (
    AUTO,
    assign,
    defaults_of,
    option,
    options_of,
    parse_given,
)
from nanochat.config.options.checks import (
    check_heads,
    check_schedule,
    check_separator,
    check_start,
    check_time_budget,
)
from nanochat.config.options.shared import DATA, MAX_SEED, MODEL, OPTIMIZATION, RUN, SAMPLING
from nanochat.config.presets import CHOSEN_BY_TEXT, PORTABLE, PORTABLE_PIECES, PRESETS
from nanochat.config.record import parse_record
from nanochat.config.share import FITTED, parse_share
from nanochat.config.unsupported import (
    OF_ENGINES,
    check_effects,
    check_has_network,
    check_supported,
    without_effect,
)
from nanochat.errors import ConfigError, UnsupportedModelKind, UnsupportedOption

__all__ = ["ARCHITECTURE", "TrainConfig", "merged_config", "preset_defaults", "resolve_preset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The options of one training run, complete and checked.

    Values that are not given come from `preset`. Raises ConfigError for a value and
    UnsupportedOption for a combination of values, or an option that has no effect with the others.

    If the text is to choose the preset, the values are those of the engine's default preset until
    then. A combination that this preset refuses and another one accepts raises no error here:
    `refusal` holds it, and `check_complete` raises it.

    Example:
        >>> TrainConfig(preset="microgpt", steps=100).n_embd
        16
    """

    # model
    mode: str = option(
        "auto", "Engine; auto: the faster one for the model and the text.", group=MODEL,
        choices=("auto", "scalar", "tensor"), common=True,
    )  # fmt: skip
    model_kind: str = option(
        "mini-gpt", "Kind of model; ngram: counted n-grams alone, without a network.", group=MODEL,
        choices=("bigram", "mini-gpt", "ngram"), common=True,
    )  # fmt: skip
    preset: str = option(
        "auto", "Named set of defaults; auto: chosen by the text, the engine and the time.",
        group=MODEL, choices=("auto", *PRESETS), common=True,
    )  # fmt: skip
    portable: bool = option(
        False, "Restrict the preset to a model that `nanochat export` writes in every format.",
        group=MODEL,
    )  # fmt: skip
    model_file: str | None = option(
        None,
        "Python file with a model of your own, ScalarModel or TensorModel; its code is run.",
        group=MODEL, path=True, kind=str, optional=True, output=True,
    )  # fmt: skip
    n_layer: int = option(
        2, "Number of transformer blocks.", group=MODEL, low=0, high=256, common=True
    )
    n_head: int = option(4, "Attention heads per block.", group=MODEL, low=1, high=256, common=True)
    n_embd: int = option(64, "Hidden size.", group=MODEL, low=1, high=65536, common=True)
    block_size: int = option(
        16, "Context window, in tokens.", group=MODEL, low=1, high=1 << 20, common=True
    )
    activation: str = option(
        "relu2", "Activation of the MLP.", group=MODEL, choices=("relu", "relu2")
    )
    positions: str = option("rope", "Position encoding.", group=MODEL, choices=("learned", "rope"))
    prev_token_tables: int = option(
        0, "Previous tokens whose embeddings are added to each token's embedding (tensor only).",
        group=MODEL, low=0, high=64,
    )  # fmt: skip
    hash_embed_rows: int = option(
        0,
        "Rows of a hashed table of n-gram embeddings, added to the token embedding; 0: no table"
        " (tensor only).", group=MODEL, low=0, high=1 << 24,
    )  # fmt: skip
    hash_embed_longest: int = option(
        4, "Tokens in the longest n-gram of hash_embed_rows; the shortest has two.", group=MODEL,
        low=2, high=64,
    )  # fmt: skip
    ngram_order: int = option(
        0,
        "Order of the counted n-grams that the network is mixed with, or of those of model_kind"
        " ngram: N − 1 tokens of context and the predicted one; auto: the best order for the text,"
        " 0: the network alone.", group=MODEL,
        low=0, high=16, auto=True, also=("order",), common=True,
    )  # fmt: skip
    tie_lm_head: bool = option(
        False, "Share the weights of the output head and the token embedding.", group=MODEL
    )
    input_rmsnorm: bool = option(True, "Apply RMSNorm to the embedding.", group=MODEL)
    output_rmsnorm: bool = option(
        False, "Apply RMSNorm to what the output head reads.", group=MODEL
    )
    qk_norm: bool = option(True, "Apply RMSNorm to the queries and keys of each head.", group=MODEL)
    logit_softcap: float = option(
        0.0, "Replace the logits by cap*tanh(logits/cap); 0: off.", group=MODEL, low=0, high=1e6
    )
    init_std: float = option(
        0.08, "Standard deviation of the initial weights.", group=MODEL, low=0, high=100,
        low_open=True,
    )  # fmt: skip
    zero_init: bool = option(
        False, "Initialize the output projections of attention and MLP to zero.", group=MODEL
    )
    dropout: float = option(
        0.0, "Dropout of embedding, attention and MLP outputs (tensor only).", group=MODEL, low=0,
        high=0.95,
    )  # fmt: skip

    # data
    data: tuple[str, ...] = option(
        ("names",),
        "Text to train on: file, folder, URL, - (standard input) or registry name; repeatable.",
        group=DATA, path=True, whole=True, output=True, common=True,
    )  # fmt: skip
    data_dir: str | None = option(
        None, "Folder to search for a registry dataset before downloading it.", group=DATA,
        path=True, kind=str, optional=True, output=True,
    )  # fmt: skip
    text_column: str | None = option(
        None, "Column of records that holds the text; default: text, content or messages.",
        group=DATA, kind=str, optional=True,
    )  # fmt: skip
    documents: str = option(
        "auto",
        "Unit of text that is one document; chat: a conversation, of which only the replies are"
        " learned; auto: chosen by the text.",
        group=DATA, choices=("auto", "file", "line", "paragraph", "chat"),
    )  # fmt: skip
    separator: str | None = option(
        None, "Text between two documents, such as a line of % alone; instead of --documents.",
        group=DATA, kind=str, optional=True,
    )  # fmt: skip
    deduplicate: bool = option(
        False, "Remove documents that are exact copies of earlier ones.", group=DATA
    )
    tokenizer: str = option(
        "char", "Unit of a token; bpe: word pieces learned from the training text.", group=DATA,
        choices=("char", "byte", "bpe"),
    )  # fmt: skip
    vocab_size: int = option(
        1024, "Tokens of tokenizer bpe, including the 256 bytes and BOS.", group=DATA, low=258,
        high=1 << 17,
    )  # fmt: skip
    bpe_pattern: str = option(
        "nanochat", "What tokenizer bpe takes for words, which it never merges across; llama.cpp"
        " knows gpt-2 and llama-bpe.", group=DATA, choices=("nanochat", "gpt-2", "llama-bpe"),
    )  # fmt: skip
    val_fraction: float = option(
        0.1, "Fraction of the documents held out for validation; 0: none.", group=DATA, low=0,
        high=0.99,
    )  # fmt: skip
    style: str = option(
        "classic", "Style; futuristic: add a small style corpus to the training text.", group=DATA,
        choices=("classic", "futuristic"), common=True,
    )  # fmt: skip
    batching: str = option(
        "auto",
        "How documents become rows; auto: windows for long documents, packed for short ones.",
        group=DATA, choices=("auto", "windows", "packed", "documents"),
    )  # fmt: skip

    show_mask: bool = option(
        False, "Print the first conversations with what is learned of them marked, and exit.",
        group=DATA, output=True,
    )  # fmt: skip

    # optimization
    steps: int = option(
        600, "Number of optimizer steps.", group=OPTIMIZATION, low=0, high=10**9, common=True
    )
    time_budget: str | None = option(
        None, "Time for the whole run, such as 60s or 5m; chooses preset, batch and steps.",
        group=OPTIMIZATION, kind=str, optional=True, common=True,
    )  # fmt: skip
    batch_size: int = option(
        64, "Rows per microbatch.", group=OPTIMIZATION, low=1, high=1 << 20, common=True
    )
    grad_accum: int = option(
        1, "Gradient accumulation: microbatches per step.", group=OPTIMIZATION, low=1, high=1 << 16
    )
    auto_batch: bool = option(
        False, "If memory runs out, halve the microbatch and double grad_accum (tensor only).",
        group=OPTIMIZATION,
    )  # fmt: skip
    optimizer: str = option(
        "adamw",
        "Optimizer; muon: Muon for the matrices of the blocks, AdamW for the rest (tensor only).",
        group=OPTIMIZATION, choices=("sgd", "adamw", "muon"),
    )  # fmt: skip
    lr: float = option(
        8e-3, "Peak learning rate.", group=OPTIMIZATION, low=0, high=1e4, low_open=True, common=True
    )
    matrix_lr: float = option(
        0.0, "Peak learning rate of the matrices of the blocks; 0: lr.", group=OPTIMIZATION, low=0,
        high=1e4,
    )  # fmt: skip
    head_lr: float = option(
        0.0, "Peak learning rate of the output head; 0: lr.", group=OPTIMIZATION, low=0, high=1e4
    )
    lr_schedule: str = option(
        "linear", "Shape of the learning-rate decay.", group=OPTIMIZATION,
        choices=("linear", "sqrt", "cosine", "constant"),
    )  # fmt: skip
    warmup_ratio: float = option(
        0.0, "Fraction of the steps with a linear warmup.", group=OPTIMIZATION, low=0, high=1
    )
    warmdown_ratio: float = option(
        0.5, "Fraction of the steps, at the end, over which the learning rate decays.",
        group=OPTIMIZATION, low=0, high=1,
    )  # fmt: skip
    final_lr_frac: float = option(
        0.0, "Final learning rate as a fraction of the peak.", group=OPTIMIZATION, low=0, high=1
    )
    schedule_points: str = option(
        "",
        "Fraction of the schedule after each step, as STEP:FRACTION pairs; recorded by a run with"
        " a time budget, so that it can be repeated.", group=OPTIMIZATION,
    )  # fmt: skip
    weight_decay: float = option(
        0.0, "Decoupled weight decay.", group=OPTIMIZATION, low=0, high=1e3
    )
    beta1: float = option(
        0.9, "Decay of the first moment of AdamW; momentum of SGD.", group=OPTIMIZATION, low=0,
        high=0.999999,
    )  # fmt: skip
    muon_momentum: float = option(
        0.95, "Momentum of Muon.", group=OPTIMIZATION, low=0, high=0.999999
    )
    beta2: float = option(
        0.99, "Decay of the second moment of AdamW.", group=OPTIMIZATION, low=0, high=0.9999999
    )
    eps: float = option(1e-8, "Epsilon of AdamW.", group=OPTIMIZATION, low=0, high=1, low_open=True)
    grad_clip: float = option(
        0.0, "Largest gradient norm; 0: off.", group=OPTIMIZATION, low=0, high=1e9
    )
    ema: float = option(
        0.0,
        "Decay of an exponential moving average of the weights, which is evaluated, sampled and"
        " kept in place of the weights; 0: off.", group=OPTIMIZATION, low=0, high=0.999999,
    )  # fmt: skip
    ngram_share: str = option(
        FITTED,
        "Correction of the counts' share after training, as SCALE,OFFSET of its logarithm against"
        " the network's: in training, the network has seen the text and the counts have not; auto:"
        " fitted to the validation part at each evaluation, or without such a part 1 and an offset"
        " by the number of epochs.", group=OPTIMIZATION,
    )  # fmt: skip
    patience: int = option(
        0, "Stop after this many evaluations without a lower validation loss; 0: never.",
        group=OPTIMIZATION, low=0, high=10**9, common=True,
    )  # fmt: skip

    # run
    seed: int = option(
        1337, "Seed of all random numbers.", group=RUN, low=0, high=MAX_SEED, common=True
    )
    device: str = option(
        "auto", "Device of the tensor engine.", group=RUN, choices=("auto", "cpu", "cuda", "mps"),
        common=True,
    )  # fmt: skip
    dtype: str = option(
        "auto",
        "Number format; auto: float64 (scalar), bfloat16 on CUDA and on CPUs where it is faster,"
        " otherwise float32.", group=RUN, choices=("auto", "float64", "float32", "bfloat16"),
        common=True,
    )  # fmt: skip
    numerics: str = option(
        "fast", "Arithmetic of the scalar engine; exact: bit-identical to microgpt, fast: fused.",
        group=RUN, choices=("fast", "exact"),
    )  # fmt: skip
    loss: str = option(
        "fused", "Loss of the tensor engine; fused: this project's kernels, torch: plain torch.",
        group=RUN, choices=("fused", "torch"),
    )  # fmt: skip
    compile: str = option(
        "auto", "Use torch.compile (tensor only); auto: for long runs on CUDA.", group=RUN,
        choices=("auto", "on", "off"),
    )  # fmt: skip
    threads: int = option(0, "CPU threads; 0: one per core.", group=RUN, low=0, high=4096)
    deterministic: bool = option(
        False, "Make runs bit-identical on CUDA too, where this is slower.", group=RUN
    )
    eval_every: int = option(
        AUTO, "Steps between evaluations; -1: about twenty per run, 0: only at the start and end.",
        group=RUN, low=AUTO, high=10**9,
    )  # fmt: skip
    eval_tokens: int = option(
        AUTO,
        "Tokens of the fixed evaluation set; -1: as many as a tenth of the training time can score,"
        " 0: all validation text.", group=RUN, low=AUTO, high=10**12,
    )  # fmt: skip
    baseline: bool = option(
        True, "Also score a smoothed n-gram model of the training text, for comparison.",
        group=RUN, output=True,
    )  # fmt: skip
    checkpoint_every: int = option(
        0,
        "Steps between checkpoints; 0: at evaluations, every ten seconds or less often.",
        group=RUN, low=0, high=10**9,
    )  # fmt: skip
    keep: str = option(
        "last:2,best",
        "Checkpoints that stay on disk: all, or the newest N as in last:3. The best always stays.",
        group=RUN, output=True,
    )  # fmt: skip
    log: str = option(
        "none",
        "Also write the figures for a viewer; tensorboard: event files in the run folder (extra"
        " tensorboard).", group=RUN, choices=("none", "tensorboard"), output=True,
    )  # fmt: skip
    record: str = option(
        "none",
        "Parameters of which each step keeps weight, gradient, moments and update, such as"
        " wte[4,0],lm_head[2,7], for inspect; auto: some of each matrix. Of a small model, some"
        " steps keep all.", group=RUN, output=True,
    )  # fmt: skip
    memory_drift: float = option(
        2.0, "Largest growth of resident memory during a run, as a ratio; 0: off.", group=RUN,
        low=0, high=1e6, output=True,
    )  # fmt: skip
    rank_timeout: int = option(
        60, "Seconds that the processes of one run wait for each other.", group=RUN, low=1,
        high=86_400, output=True,
    )  # fmt: skip
    out: str | None = option(
        None, "Run folder; default: a new folder in runs/.", group=RUN, path=True, kind=str,
        optional=True, output=True, common=True,
    )  # fmt: skip
    resume: bool = option(
        False, "Resume the run in --out, or the newest run.", group=RUN, output=True, common=True
    )

    init_from: str | None = option(
        None,
        "Run to start from, or RUN@last or RUN@STEP: its model, tokenizer and best weights, for any"
        " text.", group=RUN, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    extend_vocabulary: bool = option(
        False, "Add the text's new characters to the vocabulary of init_from.", group=RUN
    )
    final_on_all: str | None = option(
        None,
        "Run to train anew on all of its text, validation included, with its options and for its"
        " best step.", group=RUN, path=True, kind=str, optional=True, output=True,
    )  # fmt: skip

    # sampling at the end of the run
    num_samples: int = option(
        10, "Number of samples to write.", group=SAMPLING, low=0, high=1 << 20, output=True
    )
    max_new_tokens: int = option(
        200, "Maximum length of a sample, in tokens.", group=SAMPLING, low=1, high=1 << 24,
        output=True,
    )  # fmt: skip
    temperature: float = option(
        0.8, "Sampling temperature; 0: always the most likely token.", group=SAMPLING, low=0,
        high=1e4, output=True,
    )  # fmt: skip
    top_k: int = option(
        0, "Sample from the k most likely tokens; 0: all.", group=SAMPLING, low=0, high=1 << 30,
        output=True,
    )  # fmt: skip
    top_p: float = option(
        1.0, "Sample from the most likely tokens with this total probability.", group=SAMPLING,
        low=0, high=1, low_open=True, output=True,
    )  # fmt: skip
    stop: tuple[str, ...] = option(
        (), "Text that ends a sample and is not part of it; repeatable.", group=SAMPLING,
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
        check_start(self)
        if (
            self.resume
            or self.final_on_all is not None
            or (
                self.init_from is not None and not self.given | without_effect(self) >= ARCHITECTURE
            )
        ):
            return  # the saved config applies, and only given options are compared with it
        parse_keep(self.keep)
        parse_share(self.ngram_share)
        parse_record(self.record)
        check_time_budget(self, steps=defaults["steps"])
        check_separator(self.separator, self.documents)
        asked = self._asked(given, defaults)
        try:
            check_has_network(self, asked)
            self._check_portable()
            check_heads(self)
            check_schedule(self)
            check_supported(self)
            check_effects(self, asked)
        except ConfigError as error:
            if not (self._leaves_preset_to_text() and _some_preset_accepts(given)):
                raise
            assign(self, {"refusal": error})

    def _check_portable(self) -> None:
        """Raise UnsupportedOption for a given option with which a model cannot be exported."""
        if not self.portable:
            return
        if self.model_file is not None:
            raise UnsupportedOption("portable needs the built-in model; leave model_file out")
        for name, needed in {"model_kind": "mini-gpt", **PORTABLE}.items():
            found = getattr(self, name)
            if found != needed and name not in without_effect(self) and found != "llama-bpe":
                text = options_of(type(self))[name].text
                raise UnsupportedOption(
                    f"portable needs {name} {text(needed)}, got {text(found)}; leave one of them"
                    " out"
                )

    def _asked(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> frozenset[str]:
        """Return the given options; if all are, as by dataclasses.replace, those with a value that
        is not the default. Then the mode may be a choice of mode auto."""
        if given.keys() >= defaults.keys():
            return frozenset(n for n in given if given[n] != defaults[n] and n != "mode")
        return self.given

    def changed(self, **changes: Any) -> TrainConfig:
        """Return the config with other values; options without an effect get their defaults."""
        return merged_config({**self.to_dict(), **changes})

    def check_complete(self) -> None:
        """Raise the error of a combination that only another preset would accept."""
        if self.refusal is not None:
            raise self.refusal

    def _leaves_preset_to_text(self) -> bool:
        if "preset" in self.given or self.model_kind != "mini-gpt":
            return False
        asks = self.time_budget is not None or "mode" in self.given or self.numerics == "exact"
        return asks or not set(self.data) <= set(LINE_CORPORA)

    def to_dict(self) -> dict[str, Any]:
        """Return every option by name; `TrainConfig(**d)` builds an equal config."""
        return {name: getattr(self, name) for name in options_of(type(self))}

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


# The options that the weights and the tokenizer of a model depend on. A config that starts from
# another run is complete when it gives all of them.
ARCHITECTURE = frozenset({
    "model_kind", "preset", "model_file", "n_layer", "n_head", "n_embd", "block_size", "activation",
    "positions", "prev_token_tables", "hash_embed_rows", "hash_embed_longest", "ngram_order",
    "tie_lm_head", "input_rmsnorm", "output_rmsnorm", "qk_norm", "logit_softcap", "init_std",
    "zero_init", "tokenizer", "vocab_size", "bpe_pattern",
})  # fmt: skip


def merged_config(chosen: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the config of the options that were asked for over chosen or saved ones.

    A chosen option that has no effect is left out, and so is any that has none because of a chosen
    mode. Raises ConfigError, also for an option that was asked for and has no effect.
    """
    asked, known = asked or {}, options_of(TrainConfig)
    values = {
        name: known[name].parse(name, value) if name in known else value
        for name, value in {**chosen, **asked}.items()
    }
    mode, preset = resolve_preset(values)
    complete = {**preset_defaults(preset, values), **values, "mode": mode, "preset": preset}
    left_out = without_effect(SimpleNamespace(**complete)) - asked.keys()
    if "mode" in chosen and "mode" not in asked:
        left_out |= without_effect(SimpleNamespace(**complete), OF_ENGINES)
    return TrainConfig(**{name: values[name] for name in values if name not in left_out})


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
    chosen = {"n_head": 1} if "n_embd" in given and "n_head" not in given else {}
    asked = {name: value for name, value in given.items() if name != "preset"}
    for preset in CHOSEN_BY_TEXT:
        try:
            merged_config({**chosen, "preset": preset}, asked)
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
    if given.get("portable"):
        values |= {**PORTABLE, **PORTABLE_PIECES.get(preset, {})}
    if given.get("numerics") == "exact":  # its programs need float64, not the dtype of a preset
        values.pop("dtype", None)
    if given.get("documents") == "chat":  # see unsupported.py
        values = {name: value for name, value in values.items() if name != "batching"}
    return defaults_of(TrainConfig, values)
