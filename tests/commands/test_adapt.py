"""`--adapt` of eval and sample: marked, repeatable, and refused where it has no meaning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nanochat
from nanochat.config.options import EvalConfig, SampleConfig, TrainConfig
from nanochat.errors import ConfigError


@pytest.fixture(params=["scalar", "tensor"])
def run(request, folder, tiny):
    def train(**options):
        given = {"mode": request.param, "threads": 1, "ngram_order": 3, "out": "run", **options}
        return nanochat.train(TrainConfig(**tiny("mini-gpt", **given)))

    return train


def test_the_score_is_marked_and_is_that_of_another_way_of_scoring(run):
    run()
    frozen = nanochat.evaluate(EvalConfig(run="run", data=("names.txt",)))
    first = nanochat.evaluate(EvalConfig(run="run", data=("names.txt",), adapt=True))
    assert (frozen.adaptive, first.adaptive) == (False, True)
    assert first.targets == frozen.targets
    assert first.loss != frozen.loss


def test_the_line_and_the_losses_of_all_tokens_are_those_of_the_score(run, cli):
    run()
    output = cli("eval", "run", "--adapt", "--per-token=nats.jsonl")
    assert output.out.rstrip().endswith("adaptive=true")
    rows = [json.loads(line) for line in Path("nats.jsonl").read_text().splitlines()]
    result = nanochat.evaluate(EvalConfig(run="run", adapt=True))
    assert len(rows) == result.targets
    assert sum(row["nats"] for row in rows) / len(rows) == pytest.approx(result.loss)


def test_a_network_without_counts_adapts_alone(run):
    run(ngram_order=0)
    Path("read.txt").write_text("anna\n" * 100)
    results = [
        nanochat.evaluate(EvalConfig(run="run", data=("read.txt",), adapt=adapt))
        for adapt in (False, True)
    ]
    assert results[1].loss < results[0].loss
    assert results[1].adaptive


def test_each_sample_adapts_alone_and_repeats(run):
    run()
    options = {"run": "run", "adapt": True, "prompt": "an", "max_new_tokens": 12}
    three = nanochat.sample(SampleConfig(**options, num_samples=3))
    assert three == nanochat.sample(SampleConfig(**options, num_samples=3))
    assert three[:1] == nanochat.sample(SampleConfig(**options))
    assert all(text.startswith("an") for text in three)


def test_a_loaded_model_adapts_as_the_commands_do_and_forgets(run):
    run()
    model = nanochat.load("run")
    text = "anna\nbob\nanna\nbob"
    Path("text.txt").write_text(text)
    adapted = nanochat.evaluate(
        EvalConfig(run="run", data=("text.txt",), documents="line", adapt=True)
    )
    before = model.loss(text).mean
    assert model.loss(text, adapt=True).mean == pytest.approx(adapted.loss, rel=1e-12)
    assert model.loss(text).mean == before
    samples = nanochat.sample(SampleConfig(run="run", adapt=True, prompt="b", max_new_tokens=9))
    assert model.generate("b", max_new_tokens=9, adapt=True) == samples[0]
    assert "".join(model.stream("b", max_new_tokens=9, adapt=True)) == samples[0]


def test_samples_of_a_model_without_counts_do_not_adapt(run, refused):
    run(ngram_order=0)
    assert "needs a model with counts" in refused("sample", "run", "--adapt", code=2)


def test_adapt_and_from_counts_exclude_each_other():
    with pytest.raises(ConfigError, match="^adapt has no effect with from_counts; leave one"):
        SampleConfig(adapt=True, from_counts=True)
