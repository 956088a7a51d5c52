"""A run that mixes its network with counts: trained, resumed, evaluated, sampled and loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanochat
from nanochat.config.option import shown
from nanochat.config.options import EvalConfig, SampleConfig, TrainConfig, with_new_names
from nanochat.config.share import parse_share, share_words
from nanochat.errors import CheckpointError, RunInterrupted
from nanochat.ngram import baseline, mixing
from nanochat.ngram.kneser_ney import Cutoff, KneserNey
from nanochat.runs.checkpoint import load_checkpoint
from nanochat.runs.counts import counts_of


@pytest.fixture(params=["scalar", "tensor"])
def mode(request) -> str:
    return request.param


@pytest.fixture
def run(folder, tiny, mode):
    def train(**options):
        given = {"mode": mode, "threads": 1, "ngram_order": 3, "out": "run", **options}
        return nanochat.train(TrainConfig(**tiny("mini-gpt", **given)))

    return train


def newest(run: str = "run") -> Path:
    return max(Path(run, "checkpoints").glob("step-*"))


def counts_file(run: str = "run") -> Path:
    (path,) = Path(run, "counts").glob("ngram-*.safetensors")
    return path


def test_the_final_loss_is_that_of_eval_and_of_the_mixture_alone(run):
    result = run()
    scored = nanochat.evaluate(EvalConfig(run="run", threads=1))
    assert scored.loss == pytest.approx(result.metrics["val_loss"], rel=1e-6)
    network = run(out="network", ngram_order=0)
    assert result.metrics["params"] > network.metrics["params"]  # the share of the counts
    assert result.metrics["val_loss"] != network.metrics["val_loss"]


def test_a_checkpoint_names_the_counts_of_the_training_part(run):
    run()
    counts = counts_of(load_checkpoint(newest()))
    sha256 = json.loads((newest() / "data.json").read_text())["ngram_sha256"]
    assert counts_file().name == f"ngram-{sha256}.safetensors"
    model = nanochat.load("run")
    text = "anna\nbob"
    assert counts.order == 3
    assert model.loss(text).mean == pytest.approx(
        nanochat.evaluate(EvalConfig(run="run", data=write("two.txt", text), documents="line")).loss
    )


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def test_a_resumed_run_ends_with_the_same_bits_and_never_counts_again(run, stop_after, monkeypatch):
    whole = run(out="whole")
    stop_after(3)
    with pytest.raises(RunInterrupted):
        run(out="cut")
    stop_after(10**9)

    def refuse(*_, **__):
        raise AssertionError("counted again")

    monkeypatch.setattr(KneserNey, "count", refuse)
    again = nanochat.train(TrainConfig(resume=True, out="cut", baseline=False))
    ends = [(newest(name) / "weights.safetensors").read_bytes() for name in ("whole", "cut")]
    assert ends[0] == ends[1]
    assert again.metrics["val_loss"] == whole.metrics["val_loss"]


def test_a_long_text_that_is_read_twice_is_counted_whole_with_a_cutoff(
    run, stop_after, monkeypatch
):
    """And the probabilities of a long validation part are computed as they are read."""
    exact = run(out="exact")
    monkeypatch.setattr(baseline, "MOST_COUNTED", 30)
    monkeypatch.setattr(mixing, "SHORT", 10)
    run(out="short", steps=1, batch_size=1, grad_accum=1)
    short = counts_of(load_checkpoint(newest("short")))
    assert (short.cutoff, short.targets) == (None, 30)
    monkeypatch.setattr(baseline, "READINGS", 0.01)
    monkeypatch.setattr(baseline, "CUT_LENGTH", 4)  # of order 3, nothing is dropped
    whole = run(out="whole")
    counts = counts_of(load_checkpoint(newest("whole")))
    assert counts.cutoff == Cutoff(4, 2)
    assert counts.targets == counts_of(load_checkpoint(newest("exact"))).targets
    assert whole.metrics["val_loss"] == pytest.approx(exact.metrics["val_loss"], abs=0.1)
    scored = nanochat.evaluate(EvalConfig(run="whole", threads=1))
    assert scored.loss == pytest.approx(whole.metrics["val_loss"], rel=1e-6)
    stop_after(3)
    with pytest.raises(RunInterrupted):
        run(out="cut")
    stop_after(10**9)
    again = nanochat.train(TrainConfig(resume=True, out="cut", baseline=False))
    assert again.metrics["val_loss"] == whole.metrics["val_loss"]


def test_samples_are_drawn_from_the_mixture_and_repeat(run):
    first = run()
    assert nanochat.sample(SampleConfig(run="run", num_samples=2, max_new_tokens=8)) == [
        *first.samples
    ]
    model = nanochat.load("run")
    likeliest = model.next_tokens("an", k=100)
    assert len(likeliest) == model.tokenizer.vocab_size
    assert sum(probability for _, probability in likeliest) == pytest.approx(1, abs=1e-9)


def test_a_run_without_its_counts_is_one_line(run, refused):
    run()
    path = counts_file()
    content = path.read_bytes()
    path.unlink()
    for command in ("sample", "eval"):
        assert refused(command, "run", code=1).startswith(f"{path} must hold the counts of the")
    path.write_bytes(content[:-1] + b"?")
    assert refused("sample", "run", code=1).startswith(f"{path} is damaged: its SHA-256 is ")
    with pytest.raises(CheckpointError):
        nanochat.load("run")


def test_every_kept_checkpoint_shares_one_file_of_counts(run):
    run(keep="all", checkpoint_every=2)
    assert len(list(Path("run/checkpoints").glob("step-*"))) > 2
    counts_file()
    shutil.copytree("run", "moved")
    assert nanochat.load("moved").generate("an").startswith("an")


def test_a_run_that_starts_from_a_mixture_is_one_with_the_counts_of_its_own_text(run):
    run()
    Path("other.txt").write_text("anna\nben\ncleo\n" * 5)
    started = nanochat.train(
        TrainConfig(
            init_from="run", data="other.txt", documents="line", out="next", steps=2,
            extend_vocabulary=True, num_samples=0,
        )
    )  # fmt: skip
    assert np.isfinite(started.metrics["val_loss"])
    assert counts_file("next").name != counts_file().name


def test_the_bigram_does_not_mix(refused, folder):
    assert refused("train", "--model-kind=bigram", "--mode=scalar", "--ngram-order=3") == (
        "model_kind bigram does not support ngram_order 3; use ngram_order 0 or model_kind mini-gpt"
    )


def test_order_auto_is_that_of_the_counting_baseline_and_a_resume_keeps_it(run, stop_after):
    stop_after(3)
    with pytest.raises(RunInterrupted):
        run(ngram_order="auto")
    stop_after(10**9)
    saved = load_checkpoint(newest()).config["ngram_order"]
    nanochat.train(TrainConfig(resume=True, out="run", ngram_order="auto"))
    result = json.loads(Path("run/result.json").read_text())
    assert saved == result["baseline_order"]
    assert counts_of(load_checkpoint(newest())).order == saved


@pytest.mark.parametrize(("steps", "offset"), [(11, 0.0), (27, 0.8), (60, 1.5)])
def test_without_validation_the_offset_grows_with_the_epochs_after_the_first(
    folder, tiny, mode, steps, offset
):
    Path("text.txt").write_text("0123456789" * 90, encoding="utf-8")  # 900 to train on, and BOS
    given = {"mode": mode, "threads": 1, "ngram_order": 3, "steps": steps, "val_fraction": 0.0}
    given |= {"data": "text.txt", "batching": "windows", "batch_size": 15, "block_size": 4}
    run = nanochat.train(TrainConfig(**tiny("mini-gpt", **given, out="run")))
    assert run.metrics["train_tokens"] == steps * 60
    saved = load_checkpoint(newest())
    assert offset == round(min(max(steps * 60 / 901 - 1, 0), 1.5), 2)
    assert parse_share(saved.config["ngram_share"]) == (1.0, offset)
    assert saved.state.share == (1.0, offset)


def test_each_evaluation_fits_the_offset_to_validation_and_its_checkpoint_keeps_it(run):
    run(keep="all", checkpoint_every=2)
    lines = map(json.loads, Path("run/metrics.jsonl").read_text().splitlines())
    fitted = {
        line["step"]: (line["share_scale"], line["share_offset"])
        for line in lines
        if line["kind"] == "eval"
    }
    assert len(set(fitted.values())) > 1
    for folder in Path("run/checkpoints").glob("step-*"):
        saved = load_checkpoint(folder)
        assert saved.state.share == fitted[saved.trainer.step]
        assert saved.config["ngram_share"] == "auto"
        record = json.loads((folder / "trainer.json").read_text())
        assert tuple(record["share"].values()) == saved.state.share
    assert nanochat.load("run")._trained.engine.share in fitted.values()


def test_a_given_share_is_kept_and_an_older_checkpoint_has_none(run, folder):
    run(ngram_share="0.5,-0.7")
    saved = load_checkpoint(newest())
    assert saved.config["ngram_share"] == "0.5,-0.7"
    assert saved.state.share == (0.5, -0.7)
    assert "share_offset" not in Path("run/metrics.jsonl").read_text()
    content = json.loads((newest() / "trainer.json").read_text())
    for damaged in (None, "0.7", float("inf")):
        with pytest.raises(
            CheckpointError, match=r"trainer\.json must (be a number|hold finite numbers)"
        ):
            load_checkpoint(
                rewritten(newest(), {**content, "share": {"scale": 1.0, "offset": damaged}})
            )
    del content["share"]
    assert load_checkpoint(rewritten(newest(), content)).state.share == (1.0, 0.0)


def rewritten(checkpoint: Path, trainer: dict[str, object]) -> Path:
    """Write another trainer.json, and a manifest that names it."""
    text = json.dumps(trainer, indent=1).encode()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    entry = {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)}
    manifest["files"]["trainer.json"] = entry
    (checkpoint / "trainer.json").write_bytes(text)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return checkpoint


@pytest.mark.parametrize(
    "share", ["-0.5,1", "1", "1,2,3", "1,nan", "inf,0", "101,0", "1,-1001", "", "one,0", "1;0"]
)
def test_a_share_of_another_form_is_refused(refused, folder, share):
    assert refused("train", f"--ngram-share={share}") == (
        "ngram_share must be auto or SCALE,OFFSET with a scale between 0 and 100 and an offset"
        f" between -1000 and 1000, got {shown(share)}"
    )


@given(st.floats(0, 100), st.floats(-1000, 1000))
def test_the_words_of_a_share_are_read_as_that_share(scale, offset):
    assert parse_share(share_words(scale, offset)) == pytest.approx((scale, offset), rel=5e-4)


def test_an_earlier_offset_is_read_as_a_share():
    assert with_new_names({"ngram_offset": 0.7}) == {"ngram_share": "1,0.7"}
    assert with_new_names({"ngram_offset": -1.0}) == {"ngram_share": "auto"}
