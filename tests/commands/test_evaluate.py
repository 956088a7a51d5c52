"""`nanochat eval`: the score of a checkpoint, against the run's own and against the logits."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest

import nanochat
from nanochat.config.options import EvalConfig, SampleConfig, TrainConfig
from nanochat.errors import CheckpointError, TokenizerError
from nanochat.runs.load import load_trained, read_checkpoint


def score(run, **options):
    return nanochat.evaluate(EvalConfig(checkpoint=str(run.path), **options))


def test_the_validation_part_scores_as_the_run_did(trained):
    result = score(trained)
    assert result.loss == pytest.approx(trained.metrics["val_loss"], rel=1e-12)
    assert result.bpb == pytest.approx(trained.metrics["val_bpb"], rel=1e-12)
    assert result.step == trained.metrics["best_step"]
    assert result.data == f"{trained.corpus}:val"


def by_logits(run, names):
    """Nats per target and bits per byte, one document at a time, from a decoder's logits."""
    checkpoint, config, _ = read_checkpoint(str(run.path))
    model = load_trained(SampleConfig(), checkpoint, config)
    nats, byte_nats, targets, size = 0.0, 0.0, 0, 0
    for name in names:
        ids = model.tokenizer.encode(name).tolist()
        decoder = model.engine.open_decoder([[0]])
        for position, target in enumerate([*ids, 0]):
            logits = decoder.logits[0].astype(np.float64)
            loss = math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]
            nats, targets = nats + loss, targets + 1
            if target:
                byte_nats, size = byte_nats + loss, size + 1
                if position < len(ids):
                    decoder.advance([target])
    return nats / targets, byte_nats / math.log(2) / size, targets, size


def test_any_text_is_scored_token_by_token_as_its_logits_say(trained, folder):
    names = ["abba", "deb", "fran", "ed"]
    Path("other.txt").write_text("\n".join(names))
    result = score(trained, data="other.txt", documents="line", batch_size=3)
    loss, bpb, targets, size = by_logits(trained, names)
    assert (result.targets, result.bytes) == (targets, size)
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert result.bpb == pytest.approx(bpb, rel=1e-12)


def test_the_batch_size_does_not_change_the_score(trained):
    first = score(trained, batch_size=1)
    assert score(trained, batch_size=64).loss == pytest.approx(first.loss, rel=1e-12)


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_both_engines_give_the_score(trained, mode):
    result = score(trained, mode=mode, dtype="float64", threads=1)
    assert result.loss == pytest.approx(trained.metrics["val_loss"], rel=1e-12)


def test_the_line_and_the_object_on_stdout_say_the_result(trained, cli, folder):
    Path("my text.txt").write_text("anna")
    words = ["eval", f"--checkpoint={trained.path}", "--data=my text.txt"]
    line = cli(*words, "--quiet")
    values = dict(pair.split("=", 1) for pair in shlex.split(line.out))
    record = json.loads(cli(*words, "--json").out)
    assert list(values) == list(record)
    assert values["data"] == record["data"] == "my text.txt"
    assert float(values["loss"]) == pytest.approx(record["loss"], rel=1e-5)
    assert line.err == ""
    assert line.out.count("\n") == 1


def test_a_text_with_characters_that_the_model_does_not_know_is_refused(trained, refused, folder):
    Path("other.txt").write_text("anna\nzoë\n")
    message = refused(
        "eval", f"--checkpoint={trained.path}", "--data=other.txt", "--documents=line"
    )
    assert message == (
        "other.txt: unknown token 'z' at position 0 of document 1; use characters of the training"
        " corpus, or train with tokenizer byte"
    )
    with pytest.raises(TokenizerError):
        score(trained, data="other.txt")


def test_a_run_without_a_validation_part_needs_a_text(folder, tiny, refused):
    nanochat.train(TrainConfig(**tiny(out="run", val_fraction=0.0, steps=1, num_samples=0)))
    assert refused("eval", "--checkpoint=run", code=1) == (
        "run/checkpoints/step-000001 has no validation part; name the text to score with --data"
    )
    assert nanochat.evaluate(EvalConfig(checkpoint="run", data="names.txt")).targets > 0


def test_a_run_whose_corpus_has_changed_needs_a_text(folder, tiny):
    nanochat.train(TrainConfig(**tiny(out="run", steps=1, num_samples=0)))
    Path("names.txt").write_text("anna\nbob\n")
    with pytest.raises(CheckpointError) as caught:
        nanochat.evaluate(EvalConfig(checkpoint="run"))
    assert str(caught.value) == (
        "the text names.txt differs from that of run/checkpoints/step-000001; name the text"
        " to score with --data"
    )


def test_a_text_is_cut_into_documents_as_the_run_cut_its_own(trained, folder):
    as_lines = score(trained, data="names.txt", documents="line")
    assert score(trained, data="names.txt") == as_lines
    with pytest.raises(TokenizerError, match=r"^names.txt: unknown token '\\n' at position 4"):
        score(trained, data="names.txt", documents="file")


def test_a_model_of_names_scores_lines_of_another_file(folder, tiny):
    nanochat.train(
        TrainConfig(
            **tiny(out="run", data="names", documents="auto", steps=1, eval_tokens=9, num_samples=0)
        )
    )
    names = Path("names.txt").read_text().split()
    result = nanochat.evaluate(EvalConfig(checkpoint="run", data="names.txt"))
    assert (result.targets, result.bytes) == (sum(len(n) + 1 for n in names), len("".join(names)))


def test_too_little_text_is_scored_on_what_the_run_validated_on(folder, tiny):
    Path("names.txt").write_text("ab")
    run = nanochat.train(
        TrainConfig(**tiny(out="run", documents="line", style="futuristic", num_samples=0))
    )
    result = nanochat.evaluate(EvalConfig(checkpoint="run"))
    assert result.data == f"names.txt:{run.metrics['val_source']}"
    assert result.loss == pytest.approx(run.metrics["val_loss"], rel=1e-12)
