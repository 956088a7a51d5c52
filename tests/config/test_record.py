"""`--record`, written as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config.options import TrainConfig
from nanochat.config.record import MOST_PLACES, Place, parse_record
from nanochat.errors import ConfigError

PLACES = st.builds(
    Place,
    st.from_regex(r"[a-z0-9_.]{1,20}", fullmatch=True),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**9 - 1),
)


@given(st.lists(PLACES, min_size=1, max_size=20, unique=True), st.sampled_from([",", ", ", " , "]))
def test_parameters_are_read_as_they_are_written(places, comma):
    assert parse_record(comma.join(map(str, places))) == tuple(places)


def test_none_and_auto_name_no_parameter():
    assert parse_record("none") is None
    assert parse_record("auto") == ()


@pytest.mark.parametrize(
    "text",
    ["", "wte", "wte[1]", "wte[1,2", "wte[1,2],", ",wte[1,2]", "wte[-1,2]", "wte[1,2,3]", "all",
     "wte[1,٣]", "wte[1;2]", "AUTO", "wte[1,2]lm_head[1,2]", "wte[1,2] lm_head[1,2]", "[1,2]"],
)  # fmt: skip
def test_another_text_is_refused_by_name_rule_and_value(text):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(record=text)
    assert str(caught.value) == (
        "record must be none, auto, or parameters like wte[4,0],lm_head[2,7], got"
        f" {text or repr(text)}"
    )


def test_a_long_list_is_refused_at_once():
    with pytest.raises(ConfigError) as caught:  # without comparing each name with all others
        parse_record(",".join(f"wte[{i},0]" for i in range(200_000)))
    assert str(caught.value) == "record must name at most 256 parameters, got 200,000"


def test_a_parameter_twice_and_too_many_are_refused():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(record="wte[1,2],wte[2,1],wte[1,2]")
    assert str(caught.value) == "record must name each parameter once, got wte[1,2] twice"
    with pytest.raises(ConfigError) as caught:
        TrainConfig(record=",".join(f"wte[{i},0]" for i in range(MOST_PLACES + 1)))
    assert str(caught.value) == "record must name at most 256 parameters, got 257"
