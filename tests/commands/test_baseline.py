"""The counting baseline of a run: its figures, its line, and a run that ends early."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.kneser_ney import KneserNeyOracle

from nanochat.commands import baseline as commands
from nanochat.commands.baseline import comparison
from nanochat.commands.train import train
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.engines import resolve_hardware
from nanochat.errors import KernelError, NonFiniteStep
from nanochat.ngram.baseline import Baseline
from nanochat.output.terminal import Terminal
from nanochat.system import background


def run(tiny: Any, **options: Any) -> dict[str, Any]:
    result = train(TrainConfig(**{**tiny("bigram", steps=2, num_samples=0), **options}))
    record: dict[str, Any] = json.loads((result.run / "result.json").read_text())
    return record


def test_a_run_records_the_score_of_counting_its_training_text(folder: Path, tiny: Any) -> None:
    options = tiny("bigram", steps=2, num_samples=0)
    record = run(tiny)
    dataset = load_dataset(resolve_hardware(TrainConfig(**options)))

    train_part, validation = (
        [document.tolist() for document in np.split(part.tokens, part.offsets[1:-1])]
        for part in (dataset.train, dataset.val)
    )
    oracle = KneserNeyOracle(train_part, record["baseline_order"], dataset.tokenizer.vocab_size)
    losses = oracle.losses(validation)
    assert record["baseline_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    assert record["baseline_bpb"] > 0


@pytest.mark.parametrize("options", [{"baseline": False}, {"val_fraction": 0}])
def test_a_run_without_baseline_records_none(
    folder: Path, tiny: Any, options: dict[str, Any]
) -> None:
    assert not [key for key in run(tiny, **options) if key.startswith("baseline")]


def test_a_text_that_cannot_be_counted_is_a_warning(
    folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*given: object, **options: object) -> Baseline:
        raise KernelError("too long")

    monkeypatch.setattr(commands, "count_baseline", refuse)
    train(TrainConfig(**tiny("bigram", steps=2, num_samples=0)), terminal=Terminal())
    assert "warning: no counting baseline: too long\n" in capsys.readouterr().err


def test_a_run_that_fails_does_not_wait_for_counting(
    folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def wait(*given: object, **options: object) -> Baseline:
        go_on.wait()
        return Baseline(order=1, loss=None, bpb=None)

    monkeypatch.setattr(commands, "count_baseline", wait)
    with pytest.raises(NonFiniteStep):
        train(TrainConfig(**tiny("mini-gpt", steps=50, num_samples=0, optimizer="sgd", lr=1e4)))
    assert background.is_active()
    go_on.set()


def baseline(bpb: float | None = 1.98, loss: float | None = 1.5) -> Baseline:
    return Baseline(order=7, loss=loss, bpb=bpb)


def test_a_better_model_is_compared_in_one_line() -> None:
    line = "validation 1.74 bits per byte (counting, order 7: 1.98)"
    assert comparison(baseline(), 1.2, 1.74) == line


def test_a_worse_model_is_told_what_to_try() -> None:
    assert comparison(baseline(), 1.9, 2.48).splitlines() == [
        "validation 2.48 bits per byte (counting, order 7: 1.98)",
        "the model is worse than counting by 0.50 bits per byte; try more --steps or a longer"
        " --time-budget, or a larger --preset",
    ]


def test_a_worse_model_that_overfits_is_not_told_to_train_longer() -> None:
    def advice(**options: Any) -> str:
        text = comparison(baseline(), 1.9, 2.48, overfits=TrainConfig(**options)).splitlines()[1]
        return text.removeprefix("the model is worse than counting by 0.50 bits per byte; try ")

    assert advice(preset="nano") == (
        "more text, a smaller --preset, --dropout 0.2 or a larger --weight-decay"
    )
    assert advice(preset="nano", dropout=0.3) == (
        "more text, a smaller --preset or a larger --weight-decay"
    )
    # The scalar engine refuses dropout, and no preset is smaller than pico.
    assert advice(preset="pico", mode="scalar") == "more text or a larger --weight-decay"
    assert advice(preset="bigram", mode="tensor") == "more text or a larger --weight-decay"


def test_text_without_bytes_is_compared_per_token() -> None:
    line = "validation 1.20 nats per token (counting, order 7: 1.50)"
    assert comparison(baseline(bpb=None), 1.2, None) == line
