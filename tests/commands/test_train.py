"""`nanochat train`: what a run trains on, what it writes, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands.run_files import resume, untimed, untimed_log, weights_sha256

import nanochat
from nanochat.config.options import TrainConfig, options_of
from nanochat.config.sources import read_config_file
from nanochat.config.unsupported import without_effect
from nanochat.data.dataset import load_dataset
from nanochat.errors import ConfigError, NonFiniteStep, RunInterrupted
from nanochat.runs.checkpoint import load_checkpoint, newest_run
from nanochat.training import blocks
from nanochat.training.metrics import METRIC_KEYS

# --------------------------------------------------------------------------------- the run's folder


def test_a_run_folder_holds_config_environment_log_plot_result_and_checkpoints(run, records):
    result = run(out="run", steps=5, eval_every=2, checkpoint_every=2)
    assert {p.name for p in result.run.iterdir()} == {
        "config.toml", "environment.json", "metrics.jsonl", "loss.svg", "result.json",
        "checkpoints",
    }  # fmt: skip
    checkpoints = sorted(p.name for p in (result.run / "checkpoints").iterdir())
    assert checkpoints == ["best", "step-000004", "step-000005"]

    environment = json.loads((result.run / "environment.json").read_text())
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["threads"] >= 1 and environment["cpu"]
    assert set(environment["packages"]) >= {"torch", "numpy"}

    saved = json.loads((result.run / "result.json").read_text())
    assert re.fullmatch("[0-9a-f]{64}", saved.pop("split_sha256"))
    assert tuple(saved) == (
        *METRIC_KEYS, "table_entries", "count_entries", "weights_bytes", "baseline_order",
        "baseline_loss", "baseline_bpb",
    )  # fmt: skip
    assert {name: saved[name] for name in METRIC_KEYS} == result.metrics

    kinds = [(r["kind"], r["step"]) for r in records(result.run)]
    assert kinds == [
        ("eval", 0), ("step", 1), ("step", 2), ("eval", 2), ("step", 3), ("step", 4), ("eval", 4),
        ("step", 5), ("eval", 5),
    ]  # fmt: skip


def test_the_saved_config_is_whole_and_loads_to_the_same_config(run, tiny):
    run(out="run", tie_lm_head=True)
    saved = read_config_file("run/config.toml", options_of(TrainConfig))
    asked = TrainConfig(**tiny(out="run", tie_lm_head=True))
    resolved = {
        "device": "cpu", "dtype": "float64", "batching": "packed", "eval_tokens": 0,
    }  # fmt: skip
    assert TrainConfig(**saved, out="run") == dataclasses.replace(asked, **resolved)
    optional = {name for name, value in asked.to_dict().items() if value is None}
    idle = without_effect(asked)  # as --config takes the file, which refuses these
    assert {"vocab_size", "head_lr", "muon_momentum"} <= idle
    assert set(saved) == set(asked.to_dict()) - optional - {"out", "resume"} - idle
    checkpoint = load_checkpoint(max(Path("run/checkpoints").glob("step-*")))
    assert TrainConfig(**checkpoint.config) == TrainConfig(**saved, out="run")


def test_a_run_repeated_from_its_saved_config_ends_with_the_same_bits(run):
    first = run("mini-gpt", out="first")
    saved = read_config_file("first/config.toml", options_of(TrainConfig))
    again = nanochat.train(TrainConfig(**{**saved, "out": "again"}))
    assert weights_sha256(first.run) == weights_sha256(again.run)
    assert untimed(first.metrics) == untimed(again.metrics)
    assert first.samples == again.samples
    assert untimed_log("first") == untimed_log("again")


def test_the_command_repeats_a_run_from_its_saved_config(run, cli):
    first = run("mini-gpt", out="first")
    repeated = cli("train", "--config=first/config.toml", "--out=again")
    assert repeated.code == 0
    assert weights_sha256(Path("again")) == weights_sha256(first.run)
    assert cli("train", "--config=first/config.toml").code == 0  # into a new folder of runs/
    assert weights_sha256(max(Path("runs").iterdir())) == weights_sha256(first.run)


def test_the_loss_curve_is_a_picture(run):
    picture = (run(out="run").run / "loss.svg").read_bytes()
    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.attrib["width"]) >= 600 and float(root.attrib["height"]) >= 300
    assert len(root.findall("{*}polyline")) == 3  # losses, their mean, evaluations


def test_the_log_holds_the_figures_of_the_result(run, records):
    result = run(out="run", steps=7, eval_every=3)
    lines = records(result.run)
    steps = [r for r in lines if r["kind"] == "step"]
    evaluations = [r for r in lines if r["kind"] == "eval"]
    assert steps[-1]["loss"] == result.metrics["final_loss"]
    mean = math.fsum(r["loss"] for r in steps) / 7
    assert result.metrics["mean_loss_last_50"] == pytest.approx(mean, rel=1e-12)
    best = min(evaluations, key=lambda r: r["val_loss"])
    assert best["step"] == result.metrics["best_step"]
    assert best["val_loss"] == result.metrics["best_val_loss"] == result.metrics["val_loss"]
    assert best["val_bpb"] == pytest.approx(result.metrics["val_bpb"], rel=1e-15)
    assert [r["tokens"] for r in evaluations][-1] == result.metrics["train_tokens"]
    seconds = [r["elapsed_s"] for r in evaluations]
    assert 0.0 <= seconds[0] < seconds[1] < seconds[-1]
    assert result.metrics["steps_per_sec"] == pytest.approx(7 / seconds[-1])
    assert [r["lr"] for r in steps] == pytest.approx(
        [0.02 * min(1, (7 - s) / 3.5) for s in range(7)]
    )


def test_metrics_say_what_was_trained(run, mode):
    metrics = run(mode=mode, out="run", steps=4, batch_size=3, tie_lm_head=True).metrics
    vocab_size = len({*"annabobcarldoraemmafredadabeacleodanellafay"}) + 1
    assert tuple(metrics) == METRIC_KEYS
    assert metrics["mode"] == mode
    assert metrics["backend"] == {"scalar": "cpp-program", "tensor": "torch"}[mode]
    assert (metrics["steps"], metrics["seed"], metrics["vocab_size"]) == (4, 1337, vocab_size)
    assert metrics["params"] == vocab_size * 4
    assert metrics["tie_lm_head"] is True and metrics["using_gpu"] is False
    assert metrics["val_source"] == "val"
    assert metrics["steps_per_sec"] > 0
    ratio = metrics["tokens_per_sec"] / metrics["steps_per_sec"]
    assert ratio == pytest.approx(metrics["train_tokens"] / 4)


@pytest.mark.parametrize("batching", ["windows", "packed", "documents"])
@pytest.mark.parametrize("model_kind", ["bigram", "mini-gpt"])
def test_every_batching_trains_both_models_on_both_engines(
    run, records, mode, model_kind, batching
):
    result = run(
        model_kind, mode=mode, out="run", steps=30, batching=batching, lr=0.05, eval_every=0
    )
    log = records(result.run)
    losses = [r["loss"] for r in log if r["kind"] == "step"]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert log[0]["val_loss"] == pytest.approx(math.log(result.metrics["vocab_size"]), rel=0.2)


def test_no_steps_leave_the_initial_weights_evaluated_and_saved(run):
    result = run(out="run", steps=0)
    assert result.metrics["final_loss"] is None and result.metrics["mean_loss_last_50"] is None
    assert result.metrics["val_loss"] > 0 and result.metrics["train_tokens"] == 0
    assert load_checkpoint(Path("run/checkpoints/step-000000")).trainer.step == 0


def test_runs_without_a_name_lie_below_runs_and_never_share_a_folder(run, monkeypatch):
    from nanochat.runs import folder as module

    monkeypatch.setattr(module.time, "strftime", lambda _: "now")
    folders = [run(steps=1, num_samples=0).run for _ in range(3)]
    assert [str(f) for f in folders] == [
        f"runs{os.sep}now-bigram-scalar{suffix}" for suffix in ("", "-2", "-3")
    ]
    assert newest_run(Path("runs")) == folders[-1]


def test_an_unknown_instruction_set_is_one_line(folder, flags, tiny, python):
    words = ["-m", "nanochat", "train", *flags(**tiny(out="run"))]
    done = python(*words, "--quiet", env={**os.environ, "NCLAB_SIMD": "bogus"})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"error: NCLAB_SIMD must be [a-z0-9, ]+ or portable, and one that this processor runs; got"
        r" 'bogus'; unset it\n",
        done.stderr,
    )


# ------------------------------------------------------------------------------------ bad steps


def overflow(mode, **changes):
    options = {
        "mode": mode, "out": "run", "steps": 300, "lr": 1e4, "optimizer": "sgd", "eval_every": 0,
        "checkpoint_every": 1, "lr_schedule": "constant", "input_rmsnorm": False,
        "dtype": "float32", "init_std": 1.0, "num_samples": 0, "baseline": False,
    }  # fmt: skip
    return {**options, **changes}


def test_a_run_that_overflows_stops_and_its_last_good_checkpoint_has_a_finite_loss(run, mode):
    with pytest.raises(NonFiniteStep) as caught:
        run(**overflow(mode, lr=100.0))
    matched = re.fullmatch(
        r"(?:after )?step (\d+): (loss|gradient norm|training loss) (.*);"
        r" last good checkpoint: (\S+); lower lr or set grad_clip",
        str(caught.value),
    )
    assert matched
    found = sorted(Path("run/checkpoints").glob("step-*"))
    assert matched[4] == (str(found[-1]) if found else "none")
    for folder in found:
        checkpoint = load_checkpoint(folder)
        assert checkpoint.trainer.step < int(matched[1])
        losses = nanochat.evaluate(nanochat.EvalConfig(checkpoint=str(folder)))
        assert math.isfinite(losses.loss)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_last_update_that_spoils_the_weights_is_no_success(run, mode, steps):
    last = "last good checkpoint: run/checkpoints/step-000000; lower lr or set grad_clip"
    with pytest.raises(NonFiniteStep, match=last):
        run(**overflow(mode, steps=steps, checkpoint_every=0))
    assert [p.name for p in Path("run/checkpoints").glob("step-*")] == ["step-000000"]
    assert not Path("run/result.json").exists()


def test_a_network_that_is_spoiled_is_not_hidden_by_the_counts(run, mode):
    options = {"ngram_order": 2, "val_fraction": 0.3, "checkpoint_every": 0, "steps": 1}
    with pytest.raises(NonFiniteStep, match=r"^after step 1: validation loss (is|must be at most)"):
        run("mini-gpt", **overflow(mode, **options))
    assert [p.name for p in Path("run/checkpoints").glob("step-*")] == ["step-000000"]


def test_a_rate_of_1e4_ends_on_both_engines_by_one_bound(run, mode):
    with pytest.raises(NonFiniteStep) as caught:
        run(mode=mode, out="run", steps=300, lr=1e4, optimizer="sgd", lr_schedule="constant")
    assert "a thousand times that of guessing, got " in str(caught.value)


def test_a_run_that_overflows_leaves_what_repeats_it(run, mode):
    with pytest.raises(NonFiniteStep) as caught:
        run(**overflow(mode))
    record = json.loads(Path("run/nonfinite.json").read_text())
    assert record["message"] == str(caught.value)
    assert record["step"] == caught.value.step == 1
    assert record["lr"] == {"embedding": 1e4, "matrix": 1e4, "head": 1e4}
    dataset = load_dataset(TrainConfig(data="names.txt", documents="line", mode=mode))
    tokens = [t for batch in record["batch"] for row in batch["inputs"] for t in row]
    assert tokens and set(tokens) <= set(range(dataset.tokenizer.vocab_size))
    assert [len(row) for row in record["batch"][0]["inputs"]] == [
        len(row) for row in record["batch"][0]["targets"]
    ]
    assert "bigram.weight" in record["weight_norms"] or record["weight_norms"]


def test_after_an_overflow_a_resume_accepts_a_lower_rate_and_no_other(run, stop_after, monkeypatch):
    """With the same rate it would end at the same step again."""
    stop_after(2)
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "_peaks", lambda config: [1e-3] * 3)
        with pytest.raises(RunInterrupted):
            run(**overflow("scalar", lr=5e3, steps=6))
    stop_after(10**9)
    with pytest.raises(ConfigError, match=r"^--resume keeps the saved lr 5000\.0, got 0\.001"):
        resume("run", lr=1e-3)
    for _ in range(2):
        with pytest.raises(NonFiniteStep, match="last good checkpoint: run/checkpoints/step-0000"):
            resume("run")
    with pytest.raises(ConfigError, match=r"^--resume keeps the saved lr 5000\.0, got 10000\.0"):
        resume("run", lr=1e4)
    assert resume("run", lr=1e-3, grad_clip=0.5).metrics["steps"] == 6
    assert not Path("run/nonfinite.json").exists()
    saved = load_checkpoint(max(Path("run/checkpoints").glob("step-*"))).config
    assert (saved["lr"], saved["grad_clip"]) == (1e-3, 0.5)
    assert "lr = 0.001\n" in Path("run/config.toml").read_text()
    with pytest.raises(ConfigError, match=r"^--resume keeps the saved lr 0\.001, got 0\.0001"):
        resume("run", lr=1e-4)


# ----------------------------------------------------------------------------------------- the text


def test_without_a_validation_part_there_is_no_validation_loss(folder, cli, flags, tiny):
    line = cli("train", *flags(**tiny(out="run", val_fraction=0.0))).out.splitlines()[-2]
    assert "val_loss=none val_bpb=none val_source=none" in line


def test_too_little_text_validates_on_the_training_part_and_says_so(folder, cli, flags, tiny):
    Path("names.txt").write_text("a")
    result = cli("train", *flags(**tiny(out="run", documents="file")))
    assert "val_source=train" in result.out
    warnings = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: the corpus has 1 character in 1 document, too little for a validation part;"
        " validation uses the training part"
    ]
    quiet = cli("train", *flags(**tiny(out="quiet", documents="file")), "--quiet")
    assert quiet.err.splitlines() == warnings


def test_the_futuristic_style_joins_the_training_part_and_no_validation_part(run):
    data = {}
    for style in ("classic", "futuristic"):
        run(out=style, style=style, steps=1)
        data[style] = load_checkpoint(Path(style, "checkpoints/step-000001")).data
    assert data["futuristic"]["train_tokens"] > data["classic"]["train_tokens"] + 100
    for key in ("val_tokens", "val_documents", "split_sha256"):
        assert data["futuristic"][key] == data["classic"][key]


def test_the_futuristic_style_stays_out_of_a_validation_that_falls_back(run):
    data = {}
    Path("names.txt").write_text("a")
    for style in ("classic", "futuristic"):
        run(out=style, style=style, steps=1, documents="file")
        data[style] = load_checkpoint(Path(style, "checkpoints/step-000001")).data
    assert data["futuristic"]["val_source"] == "train"
    assert data["futuristic"]["val_tokens"] == data["classic"]["val_tokens"] == 1


def test_a_title_of_any_letters_is_drawn_as_it_is(run, folder):
    shutil.copy("names.txt", "$x_{2$ 数.txt")
    run(out="run", data="$x_{2$ 数.txt", steps=1)
    title = ElementTree.parse("run/loss.svg").getroot().find("{*}text")
    assert title.text == "$x_{2$ 数.txt, bigram, scalar"


def test_fewer_evaluation_tokens_evaluate_a_part_of_the_set(run, records):
    everything = run(out="all", val_fraction=0.5).metrics
    part = run(out="part", val_fraction=0.5, eval_tokens=5).metrics
    assert part["best_val_loss"] != everything["best_val_loss"]
    assert everything["best_val_loss"] == everything["val_loss"]  # on all of the text
    assert weights_sha256(Path("all")) == weights_sha256(Path("part"))
