"""A run on all text of another run, with what that run chose by its validation part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nanochat
from nanochat.config.options import TrainConfig
from nanochat.config.share import share_words
from nanochat.runs.checkpoint import load_checkpoint, read_best


@pytest.fixture(params=["scalar", "tensor"])
def mode(request) -> str:
    return request.param


@pytest.fixture
def source(folder, tiny, mode):
    """A run of nine steps on a thousand letters, which validates on their last quarter."""

    def train(**options):
        Path("text.txt").write_text(
            "".join(f"cat {n * n % 97} sat. dog {n * n % 89} ran. " for n in range(45))
        )
        fixed = {"mode": mode, "threads": 1, "data": "text.txt", "documents": "file", "out": "run"}
        fixed |= {"steps": 9, "eval_every": 3, "keep": "all", "val_fraction": 0.25, **options}
        kind = fixed.pop("model_kind", "mini-gpt")
        return nanochat.train(TrainConfig(**tiny(kind, **fixed)))

    return train


def all_text(**options):
    return nanochat.train(TrainConfig(final_on_all="run", out="all", num_samples=0, **options))


def newest(run: str) -> Path:
    return max(Path(run, "checkpoints").glob("step-*"))


def test_it_reads_all_text_as_often_as_the_best_step_had(source):
    source()
    run = all_text()
    best = read_best(Path("run/checkpoints"))
    data = json.loads((newest("run") / "data.json").read_text())
    grown = (data["train_tokens"] + data["val_tokens"]) / data["train_tokens"]
    assert run.metrics["steps"] == round(best.step * grown) > best.step
    ended = json.loads((newest("all") / "data.json").read_text())
    assert ended["train_tokens"] == len(Path("text.txt").read_text())
    assert (ended["val_tokens"], run.metrics["val_loss"]) == (0, None)
    kept = json.loads(Path("all/environment.json").read_text())["chosen_by"]
    assert (kept["step"], kept["val_loss"]) == (best.step, best.val_loss)
    assert kept["split_sha256"] == data["split_sha256"]


@pytest.mark.parametrize("mark", [None, "{", "other"])
def test_without_a_mark_of_the_best_the_newest_checkpoint_is_repeated(source, mark):
    source()
    best = Path("run/checkpoints/best")
    if mark == "other":  # that of the first checkpoint, with the hash of other weights
        record = json.loads(best.read_text())
        best.write_text(json.dumps({**record, "step": 3, "weights_sha256": "0" * 64}))
    else:
        best.unlink() if mark is None else best.write_text(mark)
    all_text()
    kept = json.loads(Path("all/environment.json").read_text())["chosen_by"]
    assert (kept["step"], kept["val_loss"]) == (9, None)


def test_its_share_of_the_counts_is_the_fitted_one(source):
    source(ngram_order=3)
    all_text()
    best = read_best(Path("run/checkpoints")).step
    fitted = load_checkpoint(Path(f"run/checkpoints/step-{best:06d}")).state.share
    assert fitted != (1.0, 0.0)
    saved = load_checkpoint(newest("all"))
    assert saved.config["ngram_share"] == share_words(*fitted)
    assert saved.state.share == pytest.approx(fitted, rel=5e-4)


def test_its_config_trains_the_same_model_without_the_other_run(source, cli):
    source()
    first = all_text()
    assert cli("train", "--config=all/config.toml", "--out=again", "--num-samples=0").code == 0
    again = json.loads(Path("again/result.json").read_text())
    assert again["final_loss"] == first.metrics["final_loss"]


@pytest.mark.parametrize("kind", ["ngram", "bigram"])
def test_counts_and_bigrams_have_it_too(folder, tiny, kind):
    Path("text.txt").write_text("abcabcabd\n" * 40)
    fixed = {"steps": 3} if kind == "bigram" else {}
    given = {"data": "text.txt", "documents": "line", "out": "run", "val_fraction": 0.25, **fixed}
    nanochat.train(TrainConfig(model_kind=kind, num_samples=0, **given))
    all_text()
    ended = json.loads((newest("all") / "data.json").read_text())
    before = json.loads((newest("run") / "data.json").read_text())
    assert ended["train_documents"] == before["train_documents"] + before["val_documents"]


def test_steps_may_be_given_and_other_options_only_as_they_were(source, refused):
    source()
    assert all_text(steps=2).metrics["steps"] == 2
    assert refused("train", "--final-on-all=run", "--lr=0.5", "--out=b").startswith(
        "final_on_all keeps lr 0.02 of run/checkpoints/step-00000"
    )


@pytest.mark.parametrize("name", ["--resume", "--init-from=run", "--time-budget=5s"])
def test_what_contradicts_it_is_refused(refused, folder, name):
    message = refused("train", "--final-on-all=run", name)
    assert message.startswith("final_on_all repeats the training of a run; leave ")


def test_a_run_without_validation_has_nothing_to_repeat(source, refused):
    source(val_fraction=0.0, eval_every=0)
    assert refused("train", "--final-on-all=run", "--out=b") == (
        "final_on_all needs a run with a validation part, got run, which trained on all of its text"
    )
    assert "no run missing" in refused("train", "--final-on-all=missing", code=1)


def test_a_run_from_other_weights_has_no_split_to_warn_of(source, cli):
    source()
    Path("run").rename("first")
    source(init_from="first")
    told = cli("train", "--final-on-all=run", "--out=all", "--num-samples=0")
    assert told.code == 0
    assert "the text is split differently" not in told.err
