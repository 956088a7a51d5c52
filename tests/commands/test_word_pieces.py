"""A model of word pieces through every command, on both engines."""

from __future__ import annotations

import math

import pytest

import nanochat
from nanochat import EvalConfig, SampleConfig, TrainConfig
from nanochat.data.tokenizer import tokenizer_from_dict
from nanochat.runs.load import read_checkpoint

TEXT = "the cat sat on the mat and the rat ran from the cat\n" * 40


@pytest.fixture(params=["scalar", "tensor"])
def options(request, folder):
    (folder / "text.txt").write_text(TEXT)
    return {
        "mode": request.param, "preset": "pico", "data": "text.txt", "documents": "file", "tokenizer": "bpe",
        "vocab_size": 270, "n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16,
        "batch_size": 2, "steps": 6, "eval_every": 3, "threads": 1, "num_samples": 1,
        "max_new_tokens": 5, "dtype": "float64",
    }  # fmt: skip


def test_bits_per_byte_count_the_bytes_of_the_pieces(options):
    run = nanochat.train(TrainConfig(**options, out="a"))
    checkpoint = read_checkpoint("a")[0]
    tokenizer = tokenizer_from_dict(checkpoint.tokenizer)
    assert tokenizer.vocab_size == run.metrics["vocab_size"] == 270
    val = TEXT[-round(len(TEXT) * 0.1) :]
    ids = tokenizer.encode(val)
    # Targets are the pieces and the BOS that ends the part, whose nats count for no byte; so the
    # bits of all pieces lie between those of all targets and those without a very costly BOS.
    nats = run.metrics["val_loss"] * (len(ids) + 1)
    assert 0 < run.metrics["val_bpb"] * len(val.encode()) * math.log(2) < nats


def test_the_checkpoint_scores_and_samples_as_the_run_did(options):
    run = nanochat.train(TrainConfig(**options, out="a"))
    score = nanochat.evaluate(EvalConfig(checkpoint="a"))
    assert score.loss == pytest.approx(run.metrics["val_loss"], rel=1e-12)
    assert score.bpb == pytest.approx(run.metrics["val_bpb"], rel=1e-12)
    asked = SampleConfig(checkpoint="a", prompt="the naïve 猫", max_new_tokens=3)
    (text,) = nanochat.sample(asked)
    assert text.startswith("the naïve 猫")


# The number of steps decides which part of the text a mixture is trained on, and the offset. With
# these options, three steps and six are trained on the whole text with the same offset.
@pytest.mark.parametrize(
    "changes", [{"ngram_order": 0}, {"batch_size": 64, "ngram_share": "1,0.5"}]
)
def test_a_resumed_run_ends_with_the_same_losses(options, changes):
    options = {**options, **changes}
    whole = nanochat.train(TrainConfig(**options, out="a"))
    stopped = nanochat.train(
        TrainConfig(**{**options, "steps": 3, "lr_schedule": "constant"}, out="b")
    )
    again = nanochat.train(TrainConfig(resume=True, out="b", steps=6))
    direct = nanochat.train(TrainConfig(**{**options, "lr_schedule": "constant"}, out="c"))
    assert stopped.metrics["steps"] == 3
    assert again.metrics["val_loss"] == direct.metrics["val_loss"]
    assert again.samples == direct.samples
    assert whole.metrics["vocab_size"] == again.metrics["vocab_size"]


def test_both_engines_learn_the_same(folder, options):
    losses = [
        nanochat.train(TrainConfig(**{**options, "mode": mode}, out=mode)).metrics["val_loss"]
        for mode in ("scalar", "tensor")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_a_checkpoint_of_very_long_pieces_is_read_again(folder, tiny):
    line = "N" * 140_000
    (folder / "text.txt").write_text(f"{line}\n" * 3)
    options = {"tokenizer": "bpe", "vocab_size": 275, "num_samples": 0, "steps": 1}
    nanochat.train(TrainConfig(**tiny(data="text.txt", out="a", **options)))
    tokenizer = read_checkpoint("a")[0].tokenizer
    assert max(map(len, tokenizer["merged"])) == 131_072  # hexadecimal digits
