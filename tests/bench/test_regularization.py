"""The bench of dropout and readings: its variants, and what is left to measure."""

from __future__ import annotations

import pytest

from bench.choices.regularization import CHOSEN, VARIANTS, missing, report
from nanochat import TrainConfig

CHOICES = {"quotations": "preset nano: 53 kB", "chat": "preset nano: 73 kB"}


def cell(text: str, seed: int, variant: str, score: float = 2.0) -> dict[str, object]:
    return {
        "text": text, "seed": seed, "variant": variant, "choice": CHOICES[text], "test_bpb": score
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_one_option_of_the_choice(variant: str) -> None:
    chosen = TrainConfig(preset="nano", mode="tensor", dropout=0.3, steps=500)
    options = VARIANTS[variant](chosen)
    changed = TrainConfig(**{**{n: getattr(chosen, n) for n in chosen.given}, **options})
    before, after = chosen.to_dict(), changed.to_dict()
    assert [n for n in before if before[n] != after[n]] == list(options)
    assert len(options) == (variant != CHOSEN)


def test_what_is_measured_is_not_measured_again_unless_the_choice_changes() -> None:
    cells = [cell("quotations", 1, CHOSEN)]
    left = list(missing(cells, CHOICES, seeds=2))
    assert len(left) == 2 * 2 * len(VARIANTS) - 1
    assert ("quotations", 1, CHOSEN) not in left
    other = {**CHOICES, "quotations": "preset pico: 53 kB"}
    assert ("quotations", 1, CHOSEN) in list(missing(cells, other, seeds=2))


def test_the_table_has_the_paired_difference_and_half_of_its_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    worse = [cell("chat", seed, "no dropout", 2.0 + seed / 10) for seed in (1, 2, 3)]
    report([*(cell("chat", seed, CHOSEN) for seed in (1, 2, 3)), *worse])
    # t(0.975, 2) = 4.3027; the differences 0.1, 0.2, 0.3 have a standard deviation of 0.1.
    assert f"+0.200 ± {4.3027 * 0.1 / 3**0.5:.3f}" in capsys.readouterr().out
