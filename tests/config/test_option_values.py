"""Values of types that no option has: numbers of other libraries, empty paths, hostile objects."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import EvalConfig, ExportConfig, InspectConfig, SampleConfig, TrainConfig
from nanochat.config.options import (
    AblateConfig,
    RunsCompareConfig,
    RunsConfig,
    RunsPruneConfig,
    RunsRemoveConfig,
    RunsShowConfig,
    ServeConfig,
    options_of,
)
from nanochat.errors import ConfigError

STEPS = "steps must be a whole number between 0 and 1000000000"
EVERY = (
    TrainConfig, SampleConfig, EvalConfig, InspectConfig, ExportConfig, ServeConfig, AblateConfig, RunsConfig,
    RunsShowConfig, RunsCompareConfig, RunsPruneConfig, RunsRemoveConfig,
)  # fmt: skip
PATHS = [
    (config, name) for config in EVERY for name, option in options_of(config).items() if option.path
]


@given(st.integers(0, 10**9))
def test_a_whole_number_of_any_type_is_the_int_of_its_value(value):
    for kind in (Decimal, Fraction, np.int64, np.array):
        steps = TrainConfig(steps=kind(value)).steps
        assert (type(steps), steps) == (int, value)


@given(st.floats(1e-9, 1e4))
def test_a_number_of_any_type_is_the_float_of_its_value(value):
    for kind in (Decimal, Fraction, np.float64, np.array, np.longdouble):
        lr = TrainConfig(lr=kind(value)).lr
        assert (type(lr), lr) == (float, value)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("tie_lm_head", np.array(True), True),
        ("activation", np.array("relu"), "relu"),
        ("activation", np.str_("relu"), "relu"),
        ("out", np.array("x"), "x"),
        ("data", [np.str_("a.txt")], ("a.txt",)),
        ("data", np.array("a.txt"), ("a.txt",)),
    ],
)
def test_values_of_numpy_become_plain_ones(name, value, found):
    parsed = getattr(TrainConfig(**{name: value}), name)
    assert parsed == found
    assert type(parsed) is type(found)
    if isinstance(found, tuple):
        assert [type(part) for part in parsed] == [str]


class Hostile:
    def __str__(self):
        raise RuntimeError("no text")

    def __repr__(self):
        return "hostile"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", Decimal("5.5"), f"{STEPS}, got 5.5"),
        ("steps", Fraction(11, 2), f"{STEPS}, got 11/2"),
        ("steps", Decimal("1E+999999999"), f"{STEPS}, got 1E+999999999"),
        ("steps", Decimal("sNaN"), f"{STEPS}, got sNaN"),
        ("steps", np.array([5]), f"{STEPS}, got [5]"),
        ("steps", np.array(5.0), f"{STEPS}, got 5.0"),
        ("steps", np.ma.masked, f"{STEPS}, got --"),
        ("steps", 5 + 0j, f"{STEPS}, got (5+0j)"),
        ("steps", Hostile(), f"{STEPS}, got a value of type Hostile"),
        ("lr", Decimal("NaN"), "lr must be finite and > 0, got NaN"),
        ("lr", Decimal("1E-400"), "lr must be finite and > 0, got 1E-400"),
        ("lr", np.longdouble("1e-4000"), "lr must be finite and > 0, got 1e-4000"),
        ("lr", np.array([0.1, 0.2]), "lr must be finite and > 0, got [0.1 0.2]"),
        ("tie_lm_head", np.int64(1), "tie_lm_head must be true or false, got 1"),
        ("activation", np.bytes_(b"relu"), "activation must be one of relu, relu2, got b'relu'"),
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_a_value_that_the_option_cannot_have_is_named_with_the_rule(name, value, message):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{name: value})
    assert str(caught.value) == message


def test_a_number_whose_float_is_zero_is_not_above_zero():
    assert math.isclose(float(Fraction(1, 10**300)), 1e-300)
    with pytest.raises(ConfigError, match=r"^lr must be finite and > 0, got 1/1000"):
        TrainConfig(lr=Fraction(1, 10**400))


@pytest.mark.parametrize(("config", "name"), PATHS, ids=str)
def test_an_empty_path_is_refused(config, name):
    value = "" if options_of(config)[name].kind is str else ("a", "")
    with pytest.raises(ConfigError) as caught:
        config(**{name: value})
    words = str(caught.value)
    assert words.startswith(f"{name} must be ")
    assert words.partition(" must be ")[2] in (
        "a path, got ''",
        "a list of paths, none of them empty, got a ",
        "text or a list of texts, none of them empty, got ['a', '']",
        "text or a list of texts, none of them empty, got a ",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--out="], "out must be a path, got ''"),
        (["train", "--resume", "--out="], "out must be a path, got ''"),
        (["train", "--config="], "config must be the path of a TOML file, got ''; leave config out"),
        (["train", "--init-from="], "init_from must be a path, got ''"),
        (["sample", ""], "run must be a path, got ''"),
        (["sample", "--checkpoint="], "checkpoint must be a path, got ''"),
        (["runs", "--dir="], "dir must be a path, got ''"),
        (["runs", "remove", "", "--yes"], "runs must be a list of paths, none of them empty, got ['']"),
    ],
)  # fmt: skip
def test_the_command_line_names_an_empty_path(words, message, folder, refused):
    assert refused(*words) == message
    assert sorted(path.name for path in folder.iterdir()) == ["names.txt"]
