"""`nanochat train --stop`: the samples at the end of a run and the previews end before the text."""

from __future__ import annotations

from pathlib import Path

import pytest

import nanochat
from nanochat.config.sources import parse_toml


def before(text: str, *stop: str) -> str:
    """The text before the first stop text."""
    places = [text.find(s) for s in stop if s in text]
    return text[: min(places)] if places else text


@pytest.fixture
def samples(folder, tiny):
    def train(**options):
        config = nanochat.TrainConfig(**tiny(num_samples=8, max_new_tokens=30, **options))
        return nanochat.train(config).samples

    return train


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_the_samples_end_before_the_first_stop_text(samples, mode):
    whole = samples(mode=mode)
    assert any("a" in text or "e" in text for text in whole)
    assert samples(mode=mode, stop=("a", "e")) == [before(text, "a", "e") for text in whole]


def test_a_stop_text_that_no_sample_has_changes_nothing(samples):
    assert samples(stop=("zzzz",)) == samples()


def test_stop_is_kept_in_the_config_and_may_change_at_a_resume(folder, tiny, cli, flags):
    words = flags(**tiny(num_samples=1, out="run", steps=2))
    assert cli("train", *words, "--stop=\n\n", "--stop=%").code == 0
    config = parse_toml(Path("run/config.toml").read_text())
    assert config["stop"] == ["\n\n", "%"]
    resumed = cli("train", "--resume", "--out=run", "--stop=a", "--num-samples=8")
    assert resumed.code == 0, resumed.err
    texts = [line for line in resumed.out.splitlines() if line.startswith("sample ")]
    assert len(texts) == 8
    assert not any("a" in text.partition(": ")[2] for text in texts)


def test_an_empty_stop_text_is_refused(folder, tiny, flags, refused):
    message = refused("train", *flags(**tiny()), "--stop=")
    assert message == "stop must be text or a list of texts, none of them empty, got ['']"


def test_a_stop_text_is_the_same_option_in_train_and_sample():
    from nanochat.config.options import SampleConfig, TrainConfig, options_of

    train, sample = options_of(TrainConfig)["stop"], options_of(SampleConfig)["stop"]
    assert (train.kind, train.default, train.help) == (sample.kind, sample.default, sample.help)
