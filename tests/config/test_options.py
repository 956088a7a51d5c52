"""Every option, preset and combination of the config classes, through Python and command line."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from error_classes import error_classes
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat import errors
from nanochat.config.option import AUTO, Option, as_text, closest, shown
from nanochat.config.options import (
    ARCHITECTURE,
    PRESETS,
    UNSUPPORTED,
    AblateConfig,
    EvalConfig,
    ExportConfig,
    InspectConfig,
    SampleConfig,
    ServeConfig,
    TrainConfig,
    merged_config,
    options_of,
)
from nanochat.config.sources import gather_options
from nanochat.config.unsupported import OF_NETWORKS
from nanochat.errors import ConfigError, NanochatError

CONFIGS = {
    "train": TrainConfig, "sample": SampleConfig, "eval": EvalConfig, "inspect": InspectConfig,
    "export": ExportConfig, "serve": ServeConfig, "ablate": AblateConfig,
}  # fmt: skip
OPTIONS = [
    (command, name, k) for command, c in CONFIGS.items() for name, k in options_of(c).items()
]
NUMBERS = [(command, name, k) for command, name, k in OPTIONS if k.kind in (int, float)]
CHOICES = [(command, name, k) for command, name, k in OPTIONS if k.choices]


# Options that need another one, or have no effect.
NEEDED = {
    "hash_embed_longest": {"mode": "tensor", "hash_embed_rows": 4},
    "vocab_size": {"tokenizer": "bpe"},
    "bpe_pattern": {"tokenizer": "bpe"},
    "muon_momentum": {"mode": "tensor", "preset": "mini", "optimizer": "muon"},
    "data_dir": {"data": "shakespeare"},
}


def alone_or_with_what_it_needs(command, name):
    if (command, name) == ("sample", "data_dir"):
        return {"report_copies": 9}
    return NEEDED.get(name, {})


def ids(cases):
    return [f"{command}-{name}" for command, name, _ in cases]


def got(value: object) -> str:
    """A refused value as messages show it."""
    text = str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value) or "''"
    return text if len(text) <= 60 else text[:60] + "…"


def outside(option: Option) -> list[tuple[object, str]]:
    """Values that the option must refuse, with their text on the command line."""
    values: list[tuple[object, str]] = [
        (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), ("text", "text"), ("", ""),
        (option.kind(10**30), str(option.kind(10**30))),
    ]  # fmt: skip
    if option.low_open:
        values.append((option.kind(option.low), str(option.kind(option.low))))
    below = option.kind(option.low - (2 if option.auto else 1))  # −1 is auto
    values.append((below, str(below)))
    if option.kind is int:
        values += [(1.5, "1.5"), (10**400, str(10**400))]
    return values


@pytest.mark.parametrize(("command", "name", "option"), NUMBERS, ids=ids(NUMBERS))
def test_numbers_out_of_range_are_refused_alike_by_api_and_command_line(
    command, name, option, refused, folder
):
    for value, text in outside(option):
        with pytest.raises(ConfigError) as caught:
            CONFIGS[command](**{name: value})
        message = str(caught.value)
        assert message.startswith(f"{name} must be ")
        assert "\n" not in message
        assert message.endswith(f", got {got(value)}")
        assert refused(command, f"--{name.replace('_', '-')}={text}") == message
    assert list(folder.iterdir()) == [folder / "names.txt"]


@pytest.mark.parametrize(("command", "name", "option"), NUMBERS, ids=ids(NUMBERS))
def test_booleans_are_not_numbers(command, name, option, refused):
    for value in (True, False, np.True_):
        with pytest.raises(ConfigError, match=f"^{name} must be .*, got {got(value)}$"):
            CONFIGS[command](**{name: value})
    assert refused(command, f"--{name.replace('_', '-')}=true").endswith(", got true")


@pytest.mark.parametrize(("command", "name", "option"), NUMBERS, ids=ids(NUMBERS))
def test_bounds_themselves_and_numpy_numbers_are_accepted(command, name, option):
    inside = option.high if option.low_open else option.low
    assert option.accepts(option.kind(inside))
    assert option.accepts(option.kind(option.high))
    others = alone_or_with_what_it_needs(command, name)
    kept = getattr(CONFIGS[command](**others, **{name: np.array([option.default])[0]}), name)
    assert type(kept) is option.kind
    assert kept == option.default


@pytest.mark.parametrize(("command", "name", "option"), CHOICES, ids=ids(CHOICES))
def test_a_misspelt_choice_is_refused_with_the_choices_and_a_suggestion(
    command, name, option, refused
):
    right = max(option.choices, key=len)
    wrong = right[:-1] + "_"
    near = closest(wrong, option.choices)
    assert "did you mean '" in near
    message = f"{name} must be one of {', '.join(option.choices)}, got {wrong}{near}"
    with pytest.raises(ConfigError) as caught:
        CONFIGS[command](**{name: wrong})
    assert str(caught.value) == message
    assert refused(command, f"--{name.replace('_', '-')}", wrong) == message
    for value in (None, 1, True, 1.5):
        with pytest.raises(ConfigError, match=f"^{name} must be one of"):
            CONFIGS[command](**{name: value})


TEXTS = [(c, name, k) for c, name, k in OPTIONS if k.kind is str and not k.choices]


@pytest.mark.parametrize(("command", "name", "option"), TEXTS, ids=ids(TEXTS))
def test_texts_that_no_path_or_terminal_can_hold_are_refused(command, name, option):
    for value in ("a\0b", "\udcff"):
        with pytest.raises(ConfigError, match=f"^{name} must be Unicode text without NUL, got "):
            CONFIGS[command](**{name: value})
    for value in (1, 1.5, b"bytes", True):
        with pytest.raises(ConfigError, match=f"^{name} must be text, got "):
            CONFIGS[command](**{name: value})
    if not option.optional:
        with pytest.raises(ConfigError, match=f"^{name} must be text, got None$"):
            CONFIGS[command](**{name: None})


FLAGS = [(c, name, k) for c, name, k in OPTIONS if k.kind is bool]


@pytest.mark.parametrize(("command", "name", "option"), FLAGS, ids=ids(FLAGS))
def test_only_booleans_and_their_text_are_booleans(command, name, option):
    for value in (1, 0, "yes", "", None, math.nan):
        with pytest.raises(ConfigError, match=f"^{name} must be true or false, got {got(value)}$"):
            CONFIGS[command](**{name: value})


@pytest.mark.parametrize("config", [TrainConfig, EvalConfig])
def test_data_takes_one_text_or_several(config):
    for value in ("a b.txt", Path("a b.txt"), ["a b.txt"], ("a b.txt",), [Path("a b.txt")]):
        assert config(data=value).data == ("a b.txt",)
    assert config(data=["a", Path("b/c")]).data == ("a", "b/c")
    rule = "data must be text or a list of texts, none of them empty"
    for value, shown_value in (
        ([], "[]"), ((), "''"), ([1], "1"), (3, "3"), (["a", None], "None"),
        ("", "''"), ([""], "['']"), (["a", ""], "['a', '']"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            config(data=value)
        assert str(caught.value) == f"{rule}, got {shown_value}"


@pytest.mark.parametrize("config", [TrainConfig, EvalConfig])
def test_a_separator_excludes_another_unit_of_documents(config):
    assert config(data="my.txt", separator="%").separator == "%"
    with pytest.raises(ConfigError, match="^separator and documents both set the unit"):
        config(separator="%", documents="line")
    with pytest.raises(ConfigError, match="^separator must have at least one character"):
        config(separator="")


def test_vary_takes_texts():
    for value in (["n_layer=1,2"], ("n_layer=1,2",), "n_layer=1,2", " n_layer=1,2 "):
        assert AblateConfig(vary=value).vary == ("n_layer=1,2",)
    for value in ((1,), None, 3):
        with pytest.raises(ConfigError, match=r"^vary must be a list of texts like 'n_layer=1,2'"):
            AblateConfig(vary=value)


@pytest.mark.parametrize(("command", "name", "option"), OPTIONS, ids=ids(OPTIONS))
def test_every_option_is_described_and_bounded(command, name, option):
    assert option.help.endswith((".", "…"))
    assert option.group
    assert option.accepts(option.default)
    assert option.kind in (int, float, str, bool, tuple)
    if option.kind in (int, float):
        assert option.low is not None and option.high is not None
        assert option.low < option.high


# --------------------------------------------------------------- one parser of values for all sources


class PathOf(os.PathLike):
    """A path that is neither text nor pathlib's."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


PATHS = [(c, name, k) for c, name, k in OPTIONS if k.path]


def test_the_options_that_hold_paths_are_marked():
    assert {(command, name) for command, name, _ in PATHS} == {
        ("train", "data"), ("train", "data_dir"), ("train", "out"), ("train", "init_from"),
        ("train", "final_on_all"), ("train", "model_file"), ("sample", "model_file"),
        ("eval", "model_file"), ("inspect", "model_file"), ("inspect", "against_model_file"),
        ("sample", "run"), ("sample", "checkpoint"), ("sample", "data_dir"), ("eval", "run"),
        ("eval", "checkpoint"), ("eval", "data"), ("eval", "data_dir"), ("eval", "per_token"),
        ("inspect", "run"), ("inspect", "checkpoint"), ("inspect", "out"), ("inspect", "against"),
        ("ablate", "out"), ("export", "run"), ("export", "checkpoint"), ("export", "out"),
        ("serve", "run"), ("serve", "checkpoint"), ("serve", "model_file"),
    }  # fmt: skip


@pytest.mark.parametrize(("command", "name", "option"), PATHS, ids=ids(PATHS))
def test_path_objects_are_kept_as_text(command, name, option):
    for value in (Path("a/b.csv"), PathOf("a/b.csv"), "a/b.csv", np.str_("a/b.csv")):
        kept = getattr(
            CONFIGS[command](**alone_or_with_what_it_needs(command, name), **{name: value}), name
        )
        if option.kind is tuple:
            assert isinstance(kept, tuple) and len(kept) == 1
            (kept,) = kept
        assert (kept, type(kept)) == ("a/b.csv", str)
    rule = "text or a list of texts, none of them empty" if option.kind is tuple else "text"
    with pytest.raises(ConfigError, match=f"^{name} must be {rule}, got <"):
        CONFIGS[command](**{name: PathOf(b"a")})


def test_a_path_object_is_not_text_for_other_options():
    for options in ({"mode": Path("scalar")}, {"time_budget": Path("5s")}):
        with pytest.raises(ConfigError, match=r"must be (text|one of .*), got (scalar|5s)$"):
            TrainConfig(**options)


@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "int64", "uint64"])
def test_numpy_integers_are_kept_as_int(kind):
    config = TrainConfig(steps=np.dtype(kind).type(7), lr=np.dtype(kind).type(7))
    assert (config.steps, type(config.steps)) == (7, int)
    assert (config.lr, type(config.lr)) == (7.0, float)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "longdouble"])
def test_numpy_floats_are_kept_as_float(kind):
    config = TrainConfig(lr=np.dtype(kind).type(0.5))
    assert (config.lr, type(config.lr)) == (0.5, float)
    for value in (math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"^lr must be finite and > 0, got {value}$"):
            TrainConfig(lr=np.dtype(kind).type(value))
    with pytest.raises(ConfigError, match=r"^steps must be a whole number .*, got 5\.0$"):
        TrainConfig(steps=np.dtype(kind).type(5))


def test_numpy_booleans_are_kept_as_bool():
    for value in (np.True_, np.False_):
        kept = TrainConfig(mode="tensor", tie_lm_head=value).tie_lm_head
        assert kept is bool(value)


@pytest.mark.parametrize(
    "value", [np.array([1, 2]), np.array([5]), np.array([]), [5], {"a": 1}, 5j, b"5", object]
)
def test_other_objects_are_refused_by_name(value):
    for name in ("steps", "lr", "tie_lm_head", "data", "mode"):
        with pytest.raises(ConfigError, match=f"^{name} must be "):
            TrainConfig(**{name: value})


def from_everywhere(name, text, tmp_path):
    """The outcome of one text through Python, flag, variable and TOML string: value or message."""
    file = tmp_path / "run.toml"
    file.write_text(f"{name} = {json.dumps(text)}\n", encoding="utf-8")
    known = options_of(TrainConfig)
    ways = {
        "python": lambda: getattr(TrainConfig(**{name: text}), name),
        "flag": lambda: gather_options(known, {name: text}, {}, None)[name],
        "variable": lambda: gather_options(known, {}, {f"NCLAB_{name.upper()}": text}, None)[name],
        "file": lambda: gather_options(known, {}, {}, str(file))[name],
    }
    outcomes = {}
    for way, read in ways.items():
        try:
            outcomes[way] = read()
        except ConfigError as error:
            outcomes[way] = str(error).split(", in environment")[0].split(", in config file")[0]
    return outcomes


TEXTS_OF_NUMBERS = [
    ("steps", "5", 5), ("steps", "+5", 5), ("steps", " 5 ", 5), ("steps", "007", 7),
    ("lr", "5", 5.0), ("lr", "5.", 5.0), ("lr", ".5", 0.5), ("lr", "+5e-1", 0.5), ("lr", "5E3", 5e3),
    ("tie_lm_head", "true", True), ("tie_lm_head", "FALSE", False), ("tie_lm_head", "1", True),
    ("model_kind", "mini-gpt", "mini-gpt"), ("data", "1", ("1",)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "value"), TEXTS_OF_NUMBERS)
def test_text_means_the_same_value_from_every_source(name, text, value, tmp_path):
    outcomes = from_everywhere(name, text, tmp_path)
    assert list(outcomes.values()) == [value] * 4
    assert {type(outcome) for outcome in outcomes.values()} == {type(value)}


REFUSED_TEXTS = [
    ("steps", "٣"), ("steps", "１２"), ("steps", "1_000"), ("steps", "5.0"), ("steps", "1e3"),
    ("steps", "0x5"), ("steps", ""), ("steps", "five"), ("steps", "--5"), ("steps", "5 5"),
    ("steps", "9" * 5000), ("lr", "٣.٣"), ("lr", "1_0.5"), ("lr", "."), ("lr", "e5"), ("lr", "nan"),
    ("lr", "infinity"), ("lr", "1e400"), ("lr", "1,5"), ("tie_lm_head", "yes"),
    ("tie_lm_head", ""), ("mode", "Scalar"), ("mode", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), REFUSED_TEXTS, ids=[t[1][:9] for t in REFUSED_TEXTS])
def test_text_is_refused_in_the_same_words_from_every_source(name, text, tmp_path):
    outcomes = from_everywhere(name, text, tmp_path)
    (message,) = set(outcomes.values())
    assert message.startswith(f"{name} must be ")
    assert f", got {got(text)}" in message


def test_digits_of_other_scripts_and_underscores_are_explained():
    rule = "a whole number between 0 and 1000000000"
    for text in ("٣", "１２", "1_000"):
        with pytest.raises(ConfigError) as caught:
            TrainConfig(steps=text)
        assert str(caught.value) == (
            f"steps must be {rule}, written in the digits 0 to 9, got {text}"
        )
    with pytest.raises(ConfigError, match=rf"^steps must be {rule}, got x_1$"):
        TrainConfig(steps="x_1")


def test_a_long_value_is_shortened_in_a_message():
    for value, start in (("x" * 10_000, "x" * 60), (10**400, "1" + "0" * 59)):
        with pytest.raises(ConfigError) as caught:
            TrainConfig(steps=value)
        assert str(caught.value).endswith(f", got {start}…")
    with pytest.raises(ConfigError, match=r", got a number with thousands of digits$"):
        TrainConfig(steps=10**9999)
    with pytest.raises(ConfigError) as caught:
        TrainConfig(mode="tensor" * 99)
    assert len(str(caught.value)) < 130


def test_a_value_is_shown_on_one_printable_line():
    assert shown("a\nb\x1b[1m\udcff") == "a\\nb\\x1b[1m\\udcff"
    assert (shown(True), shown(None), shown("")) == ("true", "None", "''")
    assert (as_text(False), as_text(1), as_text(0.5)) == ("false", "1", "0.5")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_values_of_presets_have_the_types_of_their_options(preset):
    for name, value in PRESETS[preset].items():
        option = options_of(TrainConfig)[name]
        assert option.parse(name, value) == value
        assert type(value) is option.kind


# ------------------------------------------------------------------------------------ whole configs


OF_TENSOR_ALONE = {
    name for name, values in PRESETS.items()
    if values.get("optimizer") == "muon" or values.get("prev_token_tables")
    or values.get("hash_embed_rows") or values.get("auto_batch")
}  # fmt: skip
ON_ENGINES = [
    (preset, mode) for preset in PRESETS for mode in ("scalar", "tensor")
    if preset not in (OF_TENSOR_ALONE if mode == "scalar" else {"ngram"})
]  # fmt: skip


@pytest.mark.parametrize(("preset", "mode"), ON_ENGINES)
def test_every_preset_is_valid_and_complete_on_its_engines(preset, mode):
    config = TrainConfig(preset=preset, mode=mode)
    for name, value in PRESETS[preset].items():
        assert name in options_of(TrainConfig)
        assert getattr(config, name) == value
    for name, option in options_of(TrainConfig).items():
        if name not in (*PRESETS[preset], "preset", "mode"):
            assert getattr(config, name) == option.default


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "ngram"])
def test_a_given_value_goes_over_the_preset_even_if_it_is_the_default(preset):
    # These are not free of the others.
    bound = {"model_kind", "n_head", "n_layer", "qk_norm", "positions", "activation"}
    if options_of(TrainConfig)["n_embd"].default % PRESETS[preset].get("n_head", 1):
        bound.add("n_embd")
    for name in nonempty(PRESETS[preset].keys() - bound):
        option = options_of(TrainConfig)[name]
        assert getattr(TrainConfig(preset=preset, **{name: option.default}), name) == option.default


@pytest.mark.parametrize(
    ("options", "preset"),
    [
        ({"mode": "tensor"}, "mini"),
        ({"mode": "scalar"}, "pico"),
        ({"mode": "scalar", "model_kind": "mini-gpt"}, "pico"),
        ({"mode": "tensor", "model_kind": "bigram"}, "bigram"),
        ({"mode": "scalar", "model_kind": "bigram", "preset": "auto"}, "bigram"),
        ({"mode": "tensor", "preset": "nano"}, "nano"),
        ({"mode": "scalar", "preset": "mini"}, "mini"),
    ],
)
def test_the_preset_follows_mode_and_model_kind_unless_named(options, preset):
    assert TrainConfig(**options).preset == preset


def test_microgpts_preset_is_the_final_gist():
    config = TrainConfig(preset="microgpt")
    gist = {
        "n_layer": 1, "n_embd": 16, "n_head": 4, "block_size": 16, "activation": "relu",
        "positions": "learned", "input_rmsnorm": True, "output_rmsnorm": False, "qk_norm": False, "tie_lm_head": False,
        "init_std": 0.08, "batching": "documents", "batch_size": 1, "grad_accum": 1,
        "optimizer": "adamw", "lr": 0.01, "beta1": 0.85, "beta2": 0.99, "eps": 1e-8,
        "weight_decay": 0.0, "lr_schedule": "linear", "warmup_ratio": 0.0, "warmdown_ratio": 1.0,
        "final_lr_frac": 0.0, "steps": 1000, "grad_clip": 0.0, "logit_softcap": 0.0,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in gist} == gist


def valid(option: Option):
    if option.choices:
        return st.sampled_from(option.choices)
    if option.kind is bool:
        return st.booleans()
    if option.kind is int:
        return st.integers(int(option.low), int(option.high))
    if option.kind is float:
        return st.floats(option.low, option.high, exclude_min=option.low_open)
    texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    if option.kind is tuple:  # data: no source is empty
        return st.lists(texts.filter(bool), min_size=1).map(tuple)
    return texts


@given(
    st.fixed_dictionaries({}, optional={n: valid(k) for n, k in options_of(TrainConfig).items()})
)
@settings(deadline=None, max_examples=300)
def test_any_mix_of_valid_values_builds_a_whole_config_or_says_what_does_not_go_together(options):
    try:
        config = TrainConfig(**options)
        if config.init_from is not None:
            # Not checked as a whole until the architecture is known, which the source gives.
            architecture = {name: getattr(config, name) for name in ARCHITECTURE}
            config = merged_config(architecture, {n: getattr(config, n) for n in config.given})
        config.check_complete()
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert any(name in refusal for name in options)
        return
    for name, value in options.items():
        if not (name in ("mode", "preset") and value == "auto"):
            assert getattr(config, name) == value
    for name, option in options_of(TrainConfig).items():
        assert option.accepts(getattr(config, name))
    again = TrainConfig(**config.to_dict())
    assert again == config
    assert again.to_dict() == config.to_dict()
    assert dataclasses.replace(config) == config


@pytest.mark.parametrize("config", CONFIGS.values())
def test_configs_are_frozen_and_keyword_only(config):
    made = config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, next(iter(options_of(config))), "auto")
    with pytest.raises(TypeError):
        config("auto")
    with pytest.raises(TypeError):
        config(stepz=3)


def test_given_names_what_was_asked_for_and_auto_asks_for_nothing():
    config = TrainConfig(steps=1000, device="auto", mode="auto", lr=0.1)
    assert config.given == {"steps", "lr"}


def test_auto_is_asked_for_where_the_preset_has_another_value():
    config = TrainConfig(preset="microgpt", ngram_order="auto", dtype="auto")
    assert config.given == {"preset", "ngram_order"}
    assert config.ngram_order == AUTO
    assert "dtype" in TrainConfig(preset="pico", dtype="auto").given  # it has float32


@pytest.mark.parametrize("value", ["17", "-2", "automatic"])
def test_an_order_is_auto_or_a_number(value):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(ngram_order=value)
    assert str(caught.value) == (
        f"ngram_order must be auto or a whole number between 0 and 16, got {value}"
    )


def test_head_dim_is_the_width_of_a_head():
    assert TrainConfig(n_embd=24, n_head=3).head_dim == 8


TOGETHER = [
    ({"n_embd": 30, "n_head": 4},
     "n_embd must be a multiple of n_head, got n_embd 30 and n_head 4; give both"),
    ({"n_embd": 12, "n_head": 4, "positions": "rope"},
     "positions rope needs an even head size n_embd / n_head, got 3; use positions learned or"
     " change n_head"),
    ({"warmup_ratio": 0.7, "warmdown_ratio": 0.5, "lr_schedule": "linear"},
     "warmup_ratio + warmdown_ratio must be <= 1, got 0.7 + 0.5; give both"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), TOGETHER)
def test_values_that_do_not_go_together_are_refused_alike(options, message, refused, flags):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**options)
    assert str(caught.value) == message
    assert refused("train", *flags(**options)) == message


def test_a_constant_schedule_has_no_warmdown_to_collide_with_the_warmup():
    config = TrainConfig(preset="pico", warmup_ratio=1, lr_schedule="constant")
    assert (config.warmup_ratio, config.warmdown_ratio) == (1, 0.95)


# ------------------------------------------------------------------- what is refused in combination

BIGRAM = {"model_kind": "bigram", "mode": "tensor"}
REFUSED = [  # in the order of the table
    ({"documents": "chat", "batching": "windows"}, errors.UnsupportedOption,
     "documents chat does not support batching windows; leave batching out"),
    ({"documents": "chat", "style": "futuristic"}, errors.UnsupportedOption,
     "documents chat does not support style futuristic; leave style out"),
    ({"model_kind": "ngram", "mode": "tensor"}, errors.UnsupportedOption,
     "model_kind ngram does not support mode tensor; leave it out"),
    ({"model_kind": "ngram", "device": "cuda"}, errors.UnsupportedDevice,
     "model_kind ngram does not support device cuda; leave it out"),
    ({"model_kind": "ngram", "dtype": "float32"}, errors.UnsupportedDtype,
     "model_kind ngram does not support dtype float32; use dtype float64"),
    ({"model_kind": "ngram", "compile": "on"}, errors.UnsupportedOption,
     "model_kind ngram does not support compile on; leave it out"),
    ({"model_kind": "ngram", "ngram_order": 0}, errors.UnsupportedOption,
     "model_kind ngram does not support ngram_order 0; use ngram_order auto"),
    ({"mode": "scalar", "device": "cuda"}, errors.UnsupportedDevice,
     "mode scalar does not support device cuda; use device cpu or mode tensor"),
    ({"mode": "scalar", "dtype": "bfloat16"}, errors.UnsupportedDtype,
     "mode scalar does not support dtype bfloat16; use dtype float64 or float32"),
    ({"mode": "scalar", "optimizer": "muon"}, errors.UnsupportedOptimizer,
     "mode scalar does not support optimizer muon; use optimizer adamw or mode tensor"),
    ({"mode": "scalar", "dropout": 0.1}, errors.UnsupportedOption,
     "mode scalar does not support dropout 0.1; use dropout 0 or mode tensor"),
    ({"mode": "scalar", "prev_token_tables": 1}, errors.UnsupportedOption,
     "mode scalar does not support prev_token_tables 1; use prev_token_tables 0 or mode tensor"),
    ({"mode": "scalar", "hash_embed_rows": 7}, errors.UnsupportedOption,
     "mode scalar does not support hash_embed_rows 7; use hash_embed_rows 0 or mode tensor"),
    ({"mode": "scalar", "auto_batch": True}, errors.UnsupportedOption,
     "mode scalar does not support auto_batch true; leave it out or use mode tensor"),
    ({"mode": "scalar", "loss": "torch"}, errors.UnsupportedOption,
     "mode scalar does not support loss torch; leave it out or use mode tensor"),
    ({"mode": "scalar", "compile": "on"}, errors.UnsupportedOption,
     "mode scalar does not support compile on; leave it out or use mode tensor"),
    ({"mode": "tensor", "numerics": "exact"}, errors.UnsupportedOption,
     "mode tensor does not support numerics exact; leave it out or use mode scalar"),
    ({"eval_every": 0, "patience": 3}, errors.UnsupportedOption,
     "eval_every 0 does not support patience 3; leave eval_every out, or use patience 0"),
    ({"val_fraction": 0.0, "patience": 3}, errors.UnsupportedOption,
     "val_fraction 0.0 does not support patience 3; use a val_fraction above 0, or patience 0"),
    ({"mode": "tensor", "device": "mps", "dtype": "float64", "loss": "torch"},
     errors.UnsupportedDtype, "device mps does not support dtype float64; use dtype float32"),
    ({"mode": "tensor", "device": "mps"}, errors.UnsupportedOption,
     "device mps does not support loss fused; use loss torch"),
    ({**BIGRAM, "model_file": "my_model.py"}, errors.UnsupportedOption,
     "model_kind bigram does not support model_file my_model.py; leave it out or use model_kind"
     " mini-gpt"),
    ({**BIGRAM, "n_layer": 1}, errors.UnsupportedOption,
     "model_kind bigram does not support n_layer 1; use n_layer 0 or model_kind mini-gpt"),
    ({**BIGRAM, "n_head": 2}, errors.UnsupportedOption,
     "model_kind bigram does not support n_head 2; leave it out or use model_kind mini-gpt"),
    ({"mode": "tensor", "n_layer": 0, "optimizer": "muon"}, errors.UnsupportedOptimizer,
     "n_layer 0 does not support optimizer muon; use optimizer adamw"),
    ({**BIGRAM, "activation": "relu2"}, errors.UnsupportedActivation,
     "model_kind bigram does not support activation relu2; leave it out or use model_kind"
     " mini-gpt"),
    ({**BIGRAM, "positions": "rope"}, errors.UnsupportedOption,
     "model_kind bigram does not support positions rope; leave it out or use model_kind mini-gpt"),
    ({**BIGRAM, "qk_norm": True}, errors.UnsupportedOption,
     "model_kind bigram does not support qk_norm true; leave it out or use model_kind mini-gpt"),
    ({**BIGRAM, "prev_token_tables": 2}, errors.UnsupportedOption,
     "model_kind bigram does not support prev_token_tables 2; use prev_token_tables 0 or model_kind mini-gpt"),
    ({**BIGRAM, "hash_embed_rows": 2}, errors.UnsupportedOption,
     "model_kind bigram does not support hash_embed_rows 2; use hash_embed_rows 0 or model_kind mini-gpt"),
    ({**BIGRAM, "ngram_order": 3}, errors.UnsupportedOption,
     "model_kind bigram does not support ngram_order 3; use ngram_order 0 or model_kind mini-gpt"),
    ({**BIGRAM, "dropout": 0.5}, errors.UnsupportedOption,
     "model_kind bigram does not support dropout 0.5; use dropout 0 or model_kind mini-gpt"),
]  # fmt: skip


def test_the_examples_meet_each_row_of_the_table_in_turn():
    assert len(REFUSED) == len(UNSUPPORTED)


@pytest.mark.parametrize(
    ("row", "options", "kind", "message"),
    [(row, *case) for row, case in enumerate(REFUSED)],
    ids=[case[2] for case in REFUSED],
)
def test_a_row_of_the_table_refuses_its_example_through_api_and_command_line(
    row, options, kind, message, refused, flags
):
    with pytest.raises(errors.UnsupportedOption) as caught:
        TrainConfig(**options)
    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert refused("train", *flags(**options)) == message
    assert refused("ablate", *flags(**options), "--seeds=1", "--vary=deduplicate=true") == message
    # Exactly this row, and none before it, is what the example meets.
    defaults = {name: option.default for name, option in options_of(TrainConfig).items()}
    preset = PRESETS[options["model_kind"]] if "model_kind" in options else {}
    options_given = SimpleNamespace(**{**defaults, **preset, **options})
    applied = [i for i, rule in enumerate(UNSUPPORTED) if rule.applies(options_given)]
    assert applied == [row]


def test_counts_alone_refuse_every_option_of_networks(flags, refused):
    for name in OF_NETWORKS:
        option = options_of(TrainConfig)[name]
        default = PRESETS["ngram"].get(name, option.default)
        text = {"ngram_share": "1,0.5", "record": "auto"}.get(name, "1:0.5")
        values = [*(option.choices or ()), True, False, 1, 2, 0.5, 0.25, text]
        value = next(
            v for v in values
            if type(v) is option.kind and option.accepts(v) and v != default
        )  # fmt: skip
        message = (
            f"model_kind ngram does not support {name} {as_text(value)}; leave it out or use"
            " model_kind mini-gpt"
        )
        with pytest.raises(errors.UnsupportedOption) as caught:
            TrainConfig(model_kind="ngram", **{name: value})
        assert str(caught.value) == message
        if default in ("auto", AUTO):
            continue  # auto asks for nothing
        with pytest.raises(errors.UnsupportedOption, match=f"does not support {name} "):
            TrainConfig(model_kind="ngram", **{name: default})  # the same as without it
    assert refused("train", *flags(model_kind="ngram", steps=100)) == (
        "model_kind ngram does not support steps 100; leave it out or use model_kind mini-gpt"
    )


def test_every_option_of_model_and_optimization_is_one_of_networks_or_of_counts():
    of_counts = {"mode", "model_kind", "preset", "ngram_order", "time_budget", "portable"}
    declared = options_of(TrainConfig)
    groups = {n for n, option in declared.items() if option.group in ("Model", "Optimization")}
    assert groups - set(OF_NETWORKS) == of_counts


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "bigram"])
def test_a_preset_of_another_model_kind_is_refused(preset, refused):
    kind = PRESETS[preset]["model_kind"]
    message = (
        f"preset {preset} does not support model_kind bigram; use model_kind {kind} or leave"
        " the preset out"
    )
    with pytest.raises(errors.UnsupportedModelKind) as caught:
        TrainConfig(preset=preset, model_kind="bigram")
    assert str(caught.value) == message
    assert refused("train", f"--preset={preset}", "--model-kind=bigram") == message


def test_every_error_is_a_nanochat_error_with_an_exit_code_of_1_or_2():
    for kind in (NanochatError, *error_classes()):
        assert kind.exit_code in (1, 2)
        assert kind.__doc__


@pytest.mark.parametrize(
    ("options", "accepting"),
    [
        ({"n_head": 3}, {"nano", "small"}),
        ({"n_head": 5}, {"pico"}),
        ({"n_embd": 100}, {"pico"}),
        ({"n_head": 3, "time_budget": "10s"}, {"nano", "small"}),
        ({"warmup_ratio": 0.3, "mode": "scalar"}, {"mini"}),
    ],
)
def test_a_combination_that_a_choosable_preset_accepts_waits_for_the_text(options, accepting):
    config = TrainConfig(data="my.txt", **options)
    for preset in accepting:
        assert TrainConfig(data="my.txt", **options, preset=preset).refusal is None
    assert config.refusal is not None
    with pytest.raises(ConfigError) as caught:
        config.check_complete()
    assert caught.value is config.refusal
    with pytest.raises(ConfigError, match=re.escape(str(config.refusal))):
        TrainConfig(**{"data": "my.txt", **options, "preset": config.preset})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "my.txt", "n_head": 7},
         "n_embd must be a multiple of n_head, got n_embd 64 and n_head 7; give both"),
        ({"n_head": 3},  # the names have their preset
         "n_embd must be a multiple of n_head, got n_embd 40 and n_head 3; give both"),
        ({"data": "my.txt", "n_head": 5, "preset": "nano"},
         "n_embd must be a multiple of n_head, got n_embd 96 and n_head 5; give both"),
        ({"data": "my.txt", "mode": "scalar", "dropout": 0.1},
         "mode scalar does not support dropout 0.1; use dropout 0 or mode tensor"),
    ],
)  # fmt: skip
def test_a_combination_that_every_preset_refuses_fails_before_the_text_is_read(
    options, message, refused, flags, folder
):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**options)
    assert str(caught.value) == message
    assert refused("train", *flags(**options)) == message  # my.txt does not exist
