"""Stopping a run anywhere and resuming it changes nothing, and `--resume` refuses other options."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands.run_files import resume, untimed, untimed_log, weights_sha256

import nanochat
from nanochat.config.options import TrainConfig, options_of
from nanochat.config.sources import read_config_file
from nanochat.errors import CheckpointError, ConfigError, RunInterrupted
from nanochat.output.terminal import Terminal
from nanochat.runs.checkpoint import load_checkpoint


@pytest.mark.parametrize("step", range(7))
def test_a_run_stopped_at_any_step_and_resumed_ends_with_the_same_bits(run, stop_after, step, mode):
    whole = run("mini-gpt", mode=mode, out="whole", checkpoint_every=4)
    stop_after(step)
    with pytest.raises(RunInterrupted) as caught:
        run("mini-gpt", mode=mode, out="cut", checkpoint_every=4)
    saved = f"cut/checkpoints/step-{step:06d}"
    assert str(caught.value) == (
        f"stopped after step {step}; saved {saved}; resume with: nanochat train --resume --out cut"
    )
    stop_after(10**9)
    went_on = resume("cut")
    assert weights_sha256(whole.run) == weights_sha256(went_on.run)
    assert untimed_log("whole") == untimed_log("cut")
    assert untimed(went_on.metrics) == untimed(whole.metrics)
    assert went_on.samples == whole.samples


def test_a_run_stopped_at_every_step_in_turn_ends_with_the_same_bits(run, stop_after):
    whole = run(out="whole")
    stop_after(1)
    with pytest.raises(RunInterrupted):
        run(out="cut")
    for step in range(2, 7):
        with pytest.raises(RunInterrupted, match=f"^stopped after step {step};"):
            resume("cut")
    stop_after(10**9)
    assert weights_sha256(resume("cut").run) == weights_sha256(whole.run)
    assert untimed_log("whole") == untimed_log("cut")


def test_a_finished_run_resumed_stays_as_it_is(run):
    whole = run(out="run")
    log, sha256 = untimed_log("run"), weights_sha256(whole.run)
    again = resume("run")
    assert untimed(again.metrics) == untimed(whole.metrics)
    assert again.samples == whole.samples
    assert untimed_log("run") == log
    assert weights_sha256(again.run) == sha256


def test_resume_without_a_name_takes_the_newest_run(run, stop_after):
    stop_after(3)
    for _ in range(2):
        with pytest.raises(RunInterrupted):
            run()
    first, second = sorted(Path("runs").iterdir())
    os.utime(first / "config.toml", ns=(10**18, 10**18))
    stop_after(10**9)
    assert nanochat.train(TrainConfig(resume=True)).run == second


def test_an_interruption_on_the_command_line_is_no_error(run, stop_after, cli, flags, tiny):
    stop_after(3)
    result = cli("train", *flags(**tiny(out="a run")), "--quiet")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "stopped after step 3; saved a run/checkpoints/step-000003;"
        " resume with: nanochat train --resume --out 'a run'\n"
    )
    stop_after(10**9)
    command = result.err.split("resume with: nanochat ")[1]
    assert cli(*shlex.split(command)).code == 0


def test_an_interrupt_while_samples_are_drawn_says_that_the_run_is_saved(
    folder, cli, flags, tiny, monkeypatch
):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("nanochat.commands.train_report.generate", interrupted)
    result = cli("train", *flags(**tiny(out="run")))
    assert (result.code, result.out) == (130, "")
    assert result.err.splitlines()[-2:] == [
        "the run is complete and saved in run; only its samples are missing", "interrupted",
    ]  # fmt: skip
    assert Path("run/result.json").exists()


SCRIPT = """
import sys
from nanochat.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


def start(folder, flags, tiny, out):
    """A run in another process that would take a while."""
    words = ["train", *flags(**tiny("mini-gpt", out=out, steps=3000, checkpoint_every=5,
                                    eval_every=1500, num_samples=0))]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_steps(log: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") > steps):
        assert time.monotonic() < deadline, "the run never came to its steps"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(folder, flags, tiny, number):
    process = start(folder, flags, tiny, "run")
    wait_for_steps(Path("run/metrics.jsonl"), 12)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    last = err.splitlines()[-1]
    matched = re.fullmatch(
        r"stopped after step (\d+); saved (run/checkpoints/step-0*\1);"
        r" resume with: nanochat train --resume --out run",
        last,
    )
    assert matched, err
    assert "Traceback" not in err
    assert process.returncode == 1
    assert load_checkpoint(Path(matched[2])).trainer.step == int(matched[1])


def test_a_killed_run_goes_on_to_the_same_bits(folder, flags, tiny):
    whole = nanochat.train(
        TrainConfig(**tiny("mini-gpt", out="whole", steps=200, checkpoint_every=5, lr_schedule="constant",
                           eval_every=100, num_samples=0))
    )  # fmt: skip
    words = flags(**tiny("mini-gpt", out="cut", steps=200, checkpoint_every=5, lr_schedule="constant",
                         eval_every=100, num_samples=0))  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "train", *words], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_steps(Path("cut/metrics.jsonl"), 17)
    process.kill()
    process.wait(timeout=60)
    with open("cut/metrics.jsonl", "ab") as log:
        log.write(b'{"kind":"step","st')  # a line that the kill cut off
    went_on = resume("cut")
    assert weights_sha256(went_on.run) == weights_sha256(whole.run)
    assert untimed_log("cut") == untimed_log("whole")


CHANGED = {
    "lr": 0.5, "seed": 1, "batch_size": 3, "n_embd": 8, "tie_lm_head": True, "eval_every": 1,
    "model_kind": "mini-gpt", "mode": "tensor", "preset": "microgpt", "optimizer": "sgd",
    "threads": 3, "documents": "file", "val_fraction": 0.5, "style": "futuristic", "dtype": "float32",
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_resume_refuses_any_other_value_than_the_saved_one(run, stop_after, refused, flags, name):
    stop_after(3)
    with pytest.raises(RunInterrupted):
        run(out="run")
    saved = read_config_file("run/config.toml", options_of(TrainConfig))[name]
    value = CHANGED[name]
    message = (
        f"--resume keeps the saved {name} {saved}, got {value}; leave it out, or start a new run"
    )
    with pytest.raises(ConfigError) as caught:
        resume("run", **{name: value})
    assert str(caught.value) == message
    assert refused("train", "--resume", "--out=run", *flags(**{name: value})) == message
    stop_after(10**9)
    resume("run", **{name: saved})  # the saved value itself is welcome


def test_resume_with_auto_asks_for_nothing(run, stop_after):
    stop_after(3)
    with pytest.raises(RunInterrupted):
        run(out="run", dtype="auto", batching="auto", device="auto")
    stop_after(10**9)
    autos = ("mode", "preset", "dtype", "batching", "device", "documents")
    assert resume("run", **dict.fromkeys(autos, "auto")).metrics["mode"] == "scalar"


def test_output_options_may_differ_on_resume(run, stop_after):
    stop_after(3)
    with pytest.raises(RunInterrupted):
        run(out="run")
    stop_after(10**9)
    options = {"num_samples": 1, "max_new_tokens": 1, "temperature": 0.1, "top_k": 1, "top_p": 0.9}
    result = resume("run", **options, memory_drift=0)
    assert len(result.samples) == 1 and len(result.samples[0]) <= 1


@pytest.mark.parametrize("schedule", ["linear", "sqrt", "cosine"])
def test_more_steps_need_a_constant_schedule(run, schedule):
    run("mini-gpt", out="run", lr_schedule=schedule)
    with pytest.raises(ConfigError) as caught:
        resume("run", steps=9)
    assert str(caught.value) == (
        "--resume keeps the saved steps 6, got 9; to train longer, use --init-from run"
    )


def test_a_constant_schedule_goes_on_for_more_steps_to_the_same_bits(run):
    whole = run(out="whole", steps=9, lr_schedule="constant")
    run(out="run", steps=5, lr_schedule="constant")
    longer = resume("run", steps=9)
    assert weights_sha256(longer.run) == weights_sha256(whole.run)
    assert longer.metrics["steps"] == 9
    assert untimed_log("run") == untimed_log("whole")
    with pytest.raises(ConfigError, match="^--resume keeps the saved steps 9, got 3; "):
        resume("run", steps=3)


@pytest.mark.parametrize(
    ("schedule", "kind", "steps", "way_out"),
    [
        ("linear", "mini-gpt", 9, "to train longer, use --init-from runs/a"),
        ("linear", "bigram", 9, "to train longer, start a new run"),
        ("linear", "mini-gpt", 3, "leave it out"),
        ("constant", "mini-gpt", 3, "leave it out"),
    ],
)
def test_other_steps_on_resume_are_answered_with_the_way_out(
    run, refused, schedule, kind, steps, way_out
):
    run(kind, out="runs/a", lr_schedule=schedule)
    assert refused("train", "--resume", f"--steps={steps}") == (
        f"--resume keeps the saved steps 6, got {steps}; {way_out}"
    )


@pytest.mark.parametrize(
    ("schedule", "kind", "longer"),
    [
        ("linear", "mini-gpt", "use --init-from runs/a"),
        ("linear", "bigram", "start a new run"),
        ("constant", "bigram", "give --steps above 6"),
    ],
)
def test_resuming_a_finished_run_says_how_to_train_longer(run, cli, schedule, kind, longer):
    run(kind, out="runs/a", lr_schedule=schedule)
    told = cli("train", "--resume", "--out=runs/a")
    assert told.code == 0
    assert (
        "resuming from runs/a/checkpoints/step-000006 after step 6\n"
        f"that was the last of its 6 steps; to train longer, {longer}\n"
    ) in told.err


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["runs/a", "--resume"], "the run as the text: runs/a"),
        (["--resume", "runs/a"], "the run as the text: runs/a"),
        (["--resume", "runs/a", "--steps=9"], "the run as the text: runs/a"),
        (["--resume", "a"], "the run as the text: a"),
        (["--resume", "--data=runs/a", "--out=runs/a"], "the run as the text: runs/a"),
        (["--resume", "runs/a/checkpoints/step-000006"],
         "the run as the text: runs/a/checkpoints/step-000006"),
        (["--resume", "--out=a"], "its name a"),
        (["--resume", "--out=runs/a/checkpoints/step-000006"],
         "its checkpoint runs/a/checkpoints/step-000006"),
    ],
)  # fmt: skip
def test_a_run_to_resume_that_is_named_elsewhere_is_answered_with_its_option(
    run, refused, words, got
):
    run(out="runs/a")
    rule = {
        "t": "--resume continues the run in --out", "i": "out must be the folder of the run to resume",
    }[got[0]]  # fmt: skip
    assert refused("train", *words) == f"{rule}, got {got}; use --resume --out runs/a"
    assert refused("train", "--resume", "--run=a") == (
        "unknown option --run of nanochat train; use --out"
    )


def test_a_text_with_the_name_of_a_run_and_a_run_with_that_of_a_step_are_resumed(run, folder):
    run(out="runs/names.txt")
    run(out="step-1")
    assert resume("step-1", data=("names.txt",)).metrics["steps"] == 6
    (folder / "texts").mkdir()
    (folder / "texts" / "config.toml").write_text("")
    (folder / "names.txt").rename(folder / "texts" / "names.txt")
    run(out="runs/texts", data="texts")
    for out in ("runs/texts", "step-1"):
        assert resume(out, data=("texts",)).metrics["steps"] == 6


def test_a_changed_corpus_cannot_be_resumed(run, folder):
    run(out="run", eval_every=2)
    (folder / "names.txt").write_text("zoe\nyan\nxeno\nwanda\n")
    with pytest.raises(CheckpointError) as caught:
        resume("run")
    assert re.fullmatch(
        r"the text must be that of the checkpoint \(split SHA-256 [0-9a-f]{12}…\), got"
        r" [0-9a-f]{12}…; restore the text or start a new run",
        str(caught.value),
    )


def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(run, capsys):
    whole = run(out="whole")
    run(out="run", checkpoint_every=2)
    newest = Path("run/checkpoints/step-000006/weights.safetensors")
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    result = nanochat.train(TrainConfig(resume=True, out="run"), terminal=Terminal())
    err = capsys.readouterr().err
    assert f"warning: {newest} is damaged: its SHA-256 differs from its manifest" in err
    assert "resuming from run/checkpoints/step-000004 after step 4" in err
    assert weights_sha256(result.run) == weights_sha256(whole.run)


def test_there_is_nothing_to_resume(folder, refused, run, stop_after):
    assert refused("train", "--resume", code=1) == (
        "runs holds no run with a checkpoint; train one first or name a checkpoint"
    )
    assert refused("train", "--resume", "--out=run", code=1) == (
        "no run to resume at run; leave --resume out to start one"
    )
    Path("run/checkpoints").mkdir(parents=True)
    assert refused("train", "--resume", "--out=run", code=1) == (
        "run/checkpoints holds no checkpoint; the run ended before its first one, so start it again"
        " without --resume"
    )


@pytest.mark.parametrize("damage", [Path.unlink, lambda log: log.write_bytes(b'{"kind":1}\n[[')])
def test_a_run_goes_on_without_its_log_and_says_so(run, stop_after, damage, capsys):
    whole = run(out="whole")
    stop_after(4)
    with pytest.raises(RunInterrupted):
        run(out="run")
    damage(Path("run/metrics.jsonl"))
    stop_after(10**9)
    result = nanochat.train(TrainConfig(resume=True, out="run"), terminal=Terminal())
    assert weights_sha256(result.run) == weights_sha256(whole.run)
    assert "the figures that it lacks stay lost" in capsys.readouterr().err
    steps = [line for line in untimed_log("run") if '"kind":"step"' in line]
    assert steps == [line for line in untimed_log("whole") if '"kind":"step"' in line][4:]
    assert (result.run / "loss.svg").exists()


def test_a_moved_text_is_named_anew(run, folder, stop_after, refused):
    whole = run(out="whole")
    stop_after(3)
    with pytest.raises(RunInterrupted):
        run(out="cut")
    stop_after(10**9)
    Path("names.txt").rename("moved.txt")
    message = "no such file or folder: names.txt; if it was moved, name it with --data"
    assert refused("train", "--resume", "--out=cut") == message
    assert refused("train", "--final-on-all=whole", "--out=all", "--quiet") == message
    assert refused("eval", "whole") == (
        "no such file or folder: names.txt; name the text to score with --data"
    )
    went_on = nanochat.train(TrainConfig(resume=True, out="cut", data="moved.txt"))
    assert weights_sha256(went_on.run) == weights_sha256(whole.run)
