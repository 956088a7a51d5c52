"""`--keep`, written as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config.keep import Keep, parse_keep
from nanochat.config.options import TrainConfig
from nanochat.errors import ConfigError


@given(st.integers(1, 10**9 - 1))
def test_a_number_of_newest_checkpoints_with_or_without_the_best(n):
    for text in (f"last:{n}", f"last:{n},best", f"best,last:{n}"):
        assert parse_keep(text) == Keep(n)


def test_all_and_the_best_alone():
    assert parse_keep("all") == Keep(None)
    assert parse_keep("best") == Keep(1)  # the newest is what a resume needs


@pytest.mark.parametrize(
    "text",
    ["", "last", "last:", "last:0", "last:-1", "last:2,", "last:2,last:3", "best,best", "all,best",
     "last:٣", "last:2 best", "LAST:2", "last:2,worst", "2"],
)  # fmt: skip
def test_another_text_is_refused_by_name_rule_and_value(text):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(keep=text)
    assert str(caught.value) == (
        f"keep must be all, best, or like last:2,best, got {text or repr(text)}"
    )
