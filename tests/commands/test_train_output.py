"""What `nanochat train` says: on pipes, on a terminal, quietly and as JSON."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from commands.run_files import untimed_log, weights_sha256

from nanochat.cli import main
from nanochat.data.dataset import load_dataset
from nanochat.training.metrics import METRIC_KEYS


def test_stdout_is_samples_the_metrics_line_and_the_folder(folder, cli, flags, tiny):
    result = cli("train", *flags(**tiny("mini-gpt", out="run", num_samples=3)))
    assert result.code == 0
    *samples, line, where = result.out.splitlines()
    assert [re.match(r"sample (\d): ", s)[1] for s in samples] == ["1", "2", "3"]
    assert tuple(pair.split("=", 1)[0] for pair in line.split(" ")) == METRIC_KEYS
    values = dict(pair.split("=", 1) for pair in line.split(" "))
    assert values["using_gpu"] == "false" and values["input_rmsnorm"] == "true"
    saved = json.loads(Path("run/result.json").read_text())
    assert float(values["val_loss"]) == pytest.approx(saved["val_loss"], rel=1e-5)
    assert where == "run: run"


def test_json_is_one_object_on_stdout(folder, cli, flags, tiny):
    result = cli("train", *flags(**tiny(out="run")), "--json")
    record = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert set(record) == {"metrics", "samples", "run"}
    assert tuple(record["metrics"]) == METRIC_KEYS
    assert len(record["samples"]) == 2 and record["run"] == "run"


def test_quiet_leaves_stderr_empty_and_stdout_whole(folder, cli, flags, tiny):
    loud = cli("train", *flags(**tiny(out="loud")))
    quiet = cli("train", *flags(**tiny(out="quiet")), "--quiet")
    assert quiet.err == ""
    assert "val loss" in loud.err
    assert quiet.out.splitlines()[:2] == loud.out.splitlines()[:2]


def test_progress_off_a_terminal_is_one_plain_line_an_evaluation(folder, cli, flags, tiny):
    result = cli("train", *flags(**tiny(out="run", steps=4, eval_every=2)))
    assert "\x1b" not in result.err and "\r" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in lines] == ["step 0/4", "step 2/4", "step 4/4"]
    assert re.search(
        r"^step 4/4(  train loss \d\.\d{4})?  val loss \d\.\d{4}  \d\.\d{4} bits/byte", lines[-1]
    )


def test_the_mode_is_explained_only_when_it_was_not_asked_for(folder, cli, flags, tiny):
    asked = cli("train", *flags(**tiny(out="a")))
    assert "engine, cpu float64\n" in asked.err
    options = {**tiny(out="b", steps=1), "mode": "auto"}
    assert (
        "scalar engine, cpu float64 (the faster engine for a small model of short lines)\n"
        in cli("train", *flags(**options)).err
    )
    options = {**tiny(out="c", steps=1), "mode": "auto", "documents": "file", "threads": 1}
    assert (
        "tensor engine, cpu float32 (the faster engine for long documents)\n"
        in cli("train", *flags(**options)).err
    )


def test_a_text_of_very_many_characters_goes_to_the_tensor_engine(folder, cli, flags, tiny):
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 6000)))
    Path("many.txt").write_text("\n".join(characters[i::300] for i in range(300)))
    options = {**tiny("mini-gpt", data="many.txt", n_embd=8, steps=1, batch_size=2, threads=1)}
    told = cli("train", *flags(**{**options, "mode": "auto", "block_size": 16, "out": "many"})).err
    assert (
        "tensor engine, cpu float32 (the faster engine for a model or batch this large)\n" in told
    )
    few = cli("train", *flags(**{**tiny("mini-gpt", n_embd=8), "mode": "auto", "out": "few"})).err
    assert "scalar engine, cpu float64 (" in few


def test_a_text_is_encoded_once_when_mode_auto_takes_the_other_engine(
    folder, cli, flags, tiny, monkeypatch
):
    encoded = []

    def load(*arguments, **options):
        encoded.append(arguments)
        return load_dataset(*arguments, **options)

    monkeypatch.setattr("nanochat.commands.resolve.load_dataset", load)
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 6000)))
    Path("many.txt").write_text("\n".join(characters[i::300] for i in range(300)))
    options = tiny("mini-gpt", data="many.txt", n_embd=8, steps=2, batch_size=2, threads=1)
    options["block_size"] = 16
    losses = []
    for mode in ("auto", "tensor"):
        told = cli("train", *flags(**{**options, "mode": mode, "out": f"run-{mode}"}))
        assert told.code == 0, told.err
        losses.append(json.loads(Path(f"run-{mode}/result.json").read_text())["val_loss"])
    assert len(encoded) == 2  # once per run
    assert losses[0] == losses[1]


def test_a_run_without_a_program_says_so_and_why(run, cli, flags, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("nanochat.scalar.engine.MOST_NODES", 1000)
        told = cli("train", *flags(**tiny("mini-gpt", steps=2, out="large")))
    assert "warning: the model is too large to be recorded as a program; each step" in told.err
    assert " backend=cpp-tape " in told.out
    replayed = run("mini-gpt", steps=2)
    assert replayed.metrics["backend"] == "cpp-program"
    saved = json.loads(Path("large/result.json").read_text())
    assert saved["val_loss"] == pytest.approx(replayed.metrics["val_loss"], rel=1e-12)
    told = cli("train", *flags(**tiny("mini-gpt", numerics="exact", dtype="float32", out="exact")))
    assert "warning: numerics exact has no program for this model and dtype;" in told.err


# ----------------------------------------------------------------------------------- on a terminal


class TerminalText(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch, words, stream="stderr"):
    """What a terminal on one of the streams is sent; the other one is a pipe."""
    seen = TerminalText()
    with monkeypatch.context() as patch:
        patch.setattr(sys, stream, seen)
        patch.setenv("COLUMNS", "80")
        patch.setattr("nanochat.sampling.preview.FIRST_S", 1e9)  # on a slow machine too
        assert main(words) == 0
    return seen.getvalue()


@pytest.mark.parametrize("model_kind", ["bigram", "mini-gpt"])
def test_samples_during_training_change_no_bit_of_the_run(
    folder, tiny, flags, mode, model_kind, monkeypatch
):
    options = {"mode": mode, "threads": 1, "steps": 8, "eval_every": 2}
    if mode == "tensor" and model_kind == "mini-gpt":
        options["dropout"] = 0.3
    for out in ("quiet", "shown"):
        words = ["train", *flags(**tiny(model_kind, out=out, **options))]
        if out == "quiet":
            assert main([*words, "--quiet"]) == 0
        else:
            shown = on_terminal(monkeypatch, words)
            assert len(re.findall(r"^  > \S+", shown, re.MULTILINE)) >= 1
    assert weights_sha256(Path("quiet")) == weights_sha256(Path("shown"))
    assert untimed_log("quiet") == untimed_log("shown")


def test_the_sample_under_the_best_evaluation_is_the_beginning_of_sample_1(
    folder, tiny, flags, monkeypatch, capsys
):
    words = ["train", *flags(**tiny(out="run", steps=40, eval_every=20, max_new_tokens=60))]
    shown = on_terminal(monkeypatch, words)
    sample = capsys.readouterr().out.splitlines()[0].removeprefix("sample 1: ")
    assert re.findall(r"best\s*^  > (.*)$", shown, re.MULTILINE)[-1] == sample


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_quiet_and_json_draw_nothing_during_training(folder, tiny, flags, monkeypatch, option):
    def never(*args, **options):
        raise AssertionError("a preview was drawn")

    monkeypatch.setattr("nanochat.commands.train_report.Preview", never)
    shown = on_terminal(monkeypatch, ["train", *flags(**tiny(out="run")), option])
    assert (shown == "") == (option == "--quiet")


def test_the_end_of_a_run_on_a_terminal_is_samples_and_four_lines(folder, tiny, flags, monkeypatch):
    words = ["train", *flags(**tiny(out="run", steps=40, eval_every=20)), "--quiet"]
    lines = on_terminal(monkeypatch, words, "stdout").splitlines()
    result = json.loads(Path("run/result.json").read_text())
    log = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    evaluations = [record for record in log if record["kind"] == "eval"]
    start, best = evaluations[0], min(evaluations, key=lambda record: record["val_loss"])
    assert [line.partition(":")[0] for line in lines[:2]] == ["sample 1", "sample 2"]
    assert lines[2:] == [
        f"validation {result['val_bpb']:.3f} bits per byte (counting:"
        f" {result['baseline_bpb']:.3f}, before training: {start['val_bpb']:.3f}); best at step {best['step']} of 40",
        "loss curve: run/loss.svg",
        "write text: nanochat sample run",
        "train longer: nanochat train --init-from run"
        if best["step"] == 40
        else "train on more text: nanochat train MORE.txt --init-from run",
    ]
    assert set(METRIC_KEYS) <= set(result)


def test_samples_of_several_lines_have_a_rule_each_at_the_end_of_a_run(
    folder, tiny, flags, monkeypatch
):
    Path("poem.txt").write_text("ab\ncd\n\nba\ndc\n" * 9, encoding="utf-8")
    options = tiny(data="poem.txt", documents="file", out="run", steps=30, max_new_tokens=60)
    shown = on_terminal(monkeypatch, ["train", *flags(**options), "--quiet"], "stdout")
    assert shown.startswith("--- sample 1 ---\n")
    assert "\n--- sample 2 ---\n" in shown


@pytest.mark.parametrize(("count", "words"), [(1, "1 sample in "), (2, "2 samples in ")])
def test_one_is_singular_in_the_notes_of_a_run(folder, tiny, flags, cli, count, words):
    Path("names.txt").write_text("ab\ncd\n", encoding="utf-8")
    result = cli("train", *flags(**tiny(out="run", num_samples=count, val_fraction=0.5)))
    assert f"\n{words}" in result.err
    assert "names.txt: 1 document, " in result.err


def test_a_run_without_samples_says_nothing_of_samples(folder, tiny, flags, cli):
    assert "sample" not in cli("train", *flags(**tiny(out="run", num_samples=0))).err
