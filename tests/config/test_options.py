"""Every option, preset and combination of the config classes, through API and command line."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import errors
from nanochat.config.option import Option, check_options, closest
from nanochat.config.options import (
    PRESETS,
    UNSUPPORTED,
    AblateConfig,
    EvalConfig,
    SampleConfig,
    TrainConfig,
    options_of,
)
from nanochat.errors import ConfigError, NanochatError

CONFIGS = {
    "train": TrainConfig, "sample": SampleConfig, "eval": EvalConfig, "ablate": AblateConfig,
}  # fmt: skip
KNOBS = [(command, name, k) for command, c in CONFIGS.items() for name, k in options_of(c).items()]
NUMBERS = [(command, name, k) for command, name, k in KNOBS if k.kind in (int, float)]
CHOICES = [(command, name, k) for command, name, k in KNOBS if k.choices]


def ids(cases):
    return [f"{command}-{name}" for command, name, _ in cases]


def outside(option: Option) -> list[tuple[object, str]]:
    """Values that the option must refuse, with their text on the command line."""
    values: list[tuple[object, str]] = [
        (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), ("text", "text"), ("", ""),
        (option.kind(10**30), str(option.kind(10**30))),
    ]  # fmt: skip
    if option.low_open:
        values.append((option.kind(option.low), str(option.kind(option.low))))
    values.append((option.kind(option.low - 1), str(option.kind(option.low - 1))))
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
        assert message.endswith(f", got {value}")
        assert refused(command, f"--{name.replace('_', '-')}={text}") == message
    assert list(folder.iterdir()) == [folder / "names.txt"]


@pytest.mark.parametrize(("command", "name", "option"), NUMBERS, ids=ids(NUMBERS))
def test_truth_values_are_no_numbers(command, name, option, refused):
    for value in (True, False, np.True_):
        with pytest.raises(ConfigError, match=f"^{name} must be .*, got {value}$"):
            CONFIGS[command](**{name: value})
    assert refused(command, f"--{name.replace('_', '-')}=true").endswith(", got true")


@pytest.mark.parametrize(("command", "name", "option"), NUMBERS, ids=ids(NUMBERS))
def test_bounds_themselves_and_numpy_numbers_are_accepted(command, name, option):
    inside = option.high if option.low_open else option.low
    assert option.accepts(option.kind(inside))
    assert option.accepts(option.kind(option.high))
    kept = getattr(CONFIGS[command](**{name: np.array([option.default])[0]}), name)
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


TEXTS = [(c, name, k) for c, name, k in KNOBS if k.kind is str and not k.choices]


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


FLAGS = [(c, name, k) for c, name, k in KNOBS if k.kind is bool]


@pytest.mark.parametrize(("command", "name", "option"), FLAGS, ids=ids(FLAGS))
def test_truth_values_alone_are_truth_values(command, name, option):
    for value in (1, 0, "true", None, math.nan):
        with pytest.raises(ConfigError, match=f"^{name} must be true or false, got {value}$"):
            CONFIGS[command](**{name: value})


def test_vary_takes_texts_alone():
    assert AblateConfig(vary=["n_layer=1,2"]).vary == ("n_layer=1,2",)
    for value in ("n_layer=1,2", (1,), None, 3):
        with pytest.raises(ConfigError, match=r"^vary must be a list of texts like 'n_layer=1,2'"):
            AblateConfig(vary=value)


@pytest.mark.parametrize(("command", "name", "option"), KNOBS, ids=ids(KNOBS))
def test_every_knob_says_what_it_is(command, name, option):
    assert option.help.endswith((".", "…"))
    assert option.group
    assert option.accepts(option.default)
    assert option.kind in (int, float, str, bool, tuple)
    if option.kind in (int, float):
        assert option.low is not None and option.high is not None
        assert option.low < option.high


# ------------------------------------------------------------------------------------ whole configs


OF_TENSOR_ALONE = {
    name for name, values in PRESETS.items()
    if values.get("optimizer") == "muon" or values.get("past_embeds")
    or values.get("ngram_rows") or values.get("auto_batch")
}  # fmt: skip
ON_ENGINES = [
    (preset, mode) for preset in PRESETS for mode in ("scalar", "tensor")
    if mode == "tensor" or preset not in OF_TENSOR_ALONE
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


@pytest.mark.parametrize("preset", PRESETS)
def test_a_given_value_goes_over_the_preset_even_if_it_is_the_default(preset):
    for name in PRESETS[preset]:
        option = options_of(TrainConfig)[name]
        if name in ("model_kind", "n_head", "n_layer", "qk_norm", "positions", "activation"):
            continue  # not free of the others
        if name == "n_embd" and option.default % PRESETS[preset]["n_head"]:
            continue
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
        "positions": "learned", "input_rmsnorm": True, "qk_norm": False, "tie_lm_head": False,
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
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(
    st.fixed_dictionaries({}, optional={n: valid(k) for n, k in options_of(TrainConfig).items()})
)
@settings(deadline=None, max_examples=300)
def test_any_mix_of_valid_values_builds_a_whole_config_or_says_what_does_not_go_together(options):
    try:
        config = TrainConfig(**options)
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
    check_options(config)
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
    config = TrainConfig(steps=1000, dtype="auto", mode="auto", lr=0.1)
    assert config.given == {"steps", "lr"}


def test_head_dim_is_the_width_of_a_head():
    assert TrainConfig(n_embd=24, n_head=3).head_dim == 8


TOGETHER = [
    ({"n_embd": 30, "n_head": 4},
     "n_embd must be a multiple of n_head, got n_embd 30 and n_head 4; give both"),
    ({"n_embd": 12, "n_head": 4, "positions": "rope"},
     "positions rope needs an even head size n_embd / n_head, got 3; use positions learned or"
     " change n_head"),
    ({"warmup_ratio": 0.7, "warmdown_ratio": 0.5, "lr_schedule": "linear"},
     "warmup_ratio + warmdown_ratio must be <= 1, got 0.7 + 0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), TOGETHER)
def test_values_that_do_not_go_together_are_refused_alike(options, message, refused, flags):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**options)
    assert str(caught.value) == message
    assert refused("train", *flags(**options)) == message


def test_a_constant_schedule_has_no_warmdown_to_collide_with_the_warmup():
    assert TrainConfig(warmup_ratio=1, warmdown_ratio=1, lr_schedule="constant").warmup_ratio == 1


# ------------------------------------------------------------------- what is refused in combination

BIGRAM = {"model_kind": "bigram", "mode": "tensor"}
REFUSED = [  # in the order of the table
    ({"mode": "scalar", "device": "cuda"}, errors.UnsupportedDevice,
     "mode scalar does not support device cuda; use device cpu or mode tensor"),
    ({"mode": "scalar", "dtype": "bfloat16"}, errors.UnsupportedDtype,
     "mode scalar does not support dtype bfloat16; use dtype float64 or float32"),
    ({"mode": "scalar", "optimizer": "muon"}, errors.UnsupportedOptimizer,
     "mode scalar does not support optimizer muon; use optimizer adamw or mode tensor"),
    ({"mode": "scalar", "dropout": 0.1}, errors.UnsupportedOption,
     "mode scalar does not support dropout 0.1; use dropout 0 or mode tensor"),
    ({"mode": "scalar", "past_embeds": 1}, errors.UnsupportedOption,
     "mode scalar does not support past_embeds 1; use past_embeds 0 or mode tensor"),
    ({"mode": "scalar", "ngram_rows": 7}, errors.UnsupportedOption,
     "mode scalar does not support ngram_rows 7; use ngram_rows 0 or mode tensor"),
    ({"mode": "scalar", "auto_batch": True}, errors.UnsupportedOption,
     "mode scalar does not support auto_batch true; leave it out or use mode tensor"),
    ({"mode": "scalar", "loss": "torch"}, errors.UnsupportedOption,
     "mode scalar does not support loss torch; leave it out or use mode tensor"),
    ({"mode": "scalar", "compile": "on"}, errors.UnsupportedOption,
     "mode scalar does not support compile on; leave it out or use mode tensor"),
    ({"mode": "tensor", "numerics": "exact"}, errors.UnsupportedOption,
     "mode tensor does not support numerics exact; use numerics fast or mode scalar"),
    ({"mode": "tensor", "device": "mps", "dtype": "float64", "loss": "torch"},
     errors.UnsupportedDtype, "device mps does not support dtype float64; use dtype float32"),
    ({"mode": "tensor", "device": "mps"}, errors.UnsupportedOption,
     "device mps does not support loss fused; use loss torch"),
    ({**BIGRAM, "n_layer": 1}, errors.UnsupportedOption,
     "model_kind bigram does not support n_layer 1; use n_layer 0 or model_kind mini-gpt"),
    ({**BIGRAM, "n_head": 2}, errors.UnsupportedOption,
     "model_kind bigram does not support n_head 2; use n_head 1 or model_kind mini-gpt"),
    ({"mode": "tensor", "n_layer": 0, "optimizer": "muon"}, errors.UnsupportedOptimizer,
     "n_layer 0 does not support optimizer muon; use optimizer adamw"),
    ({**BIGRAM, "activation": "relu2"}, errors.UnsupportedActivation,
     "model_kind bigram does not support activation relu2; leave it out or use model_kind"
     " mini-gpt"),
    ({**BIGRAM, "positions": "rope"}, errors.UnsupportedOption,
     "model_kind bigram does not support positions rope; leave it out or use model_kind mini-gpt"),
    ({**BIGRAM, "qk_norm": True}, errors.UnsupportedOption,
     "model_kind bigram does not support qk_norm true; leave it out or use model_kind mini-gpt"),
    ({**BIGRAM, "past_embeds": 2}, errors.UnsupportedOption,
     "model_kind bigram does not support past_embeds 2; use past_embeds 0 or model_kind mini-gpt"),
    ({**BIGRAM, "ngram_rows": 2}, errors.UnsupportedOption,
     "model_kind bigram does not support ngram_rows 2; use ngram_rows 0 or model_kind mini-gpt"),
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
    assert refused("ablate", *flags(**options), "--seeds=1", "--vary=lr=0.1") == message
    # Exactly this row, and none before it, is what the example meets.
    defaults = {name: option.default for name, option in options_of(TrainConfig).items()}
    preset = PRESETS["bigram"] if "model_kind" in options else {}
    stand_in = SimpleNamespace(**{**defaults, **preset, **options})
    applied = [i for i, (_, applies, *_) in enumerate(UNSUPPORTED) if applies(stand_in)]
    assert applied == [row]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "bigram"])
def test_a_preset_of_another_model_kind_is_refused(preset, refused):
    message = (
        f"preset {preset} does not support model_kind bigram; use model_kind mini-gpt or leave"
        " the preset out"
    )
    with pytest.raises(errors.UnsupportedModelKind) as caught:
        TrainConfig(preset=preset, model_kind="bigram")
    assert str(caught.value) == message
    assert refused("train", f"--preset={preset}", "--model-kind=bigram") == message


def test_every_error_is_a_nanochat_error_with_an_exit_code_of_1_or_2():
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, NanochatError)
        assert kind.exit_code in (1, 2)
        assert kind.__doc__
