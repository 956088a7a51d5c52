"""`nanochat train`: what a run writes and says, and that stopping it anywhere changes nothing."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

import nanochat
from nanochat.cli import main
from nanochat.config.options import TrainConfig, options_of
from nanochat.config.sources import read_config_file
from nanochat.data.dataset import Dataset, load_dataset
from nanochat.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteStep,
    OutputError,
    RunInterrupted,
)
from nanochat.output.terminal import Terminal
from nanochat.runs import checkpoint as checkpoint_module
from nanochat.runs.checkpoint import load_checkpoint, newest_run
from nanochat.runs.lock import LOCK
from nanochat.training.metrics import METRIC_KEYS

TIMINGS = ("steps_per_sec", "tokens_per_sec")


@pytest.fixture(params=["scalar", "tensor"])
def mode(request) -> str:
    return request.param


@pytest.fixture
def run(folder, tiny):
    """Train in the working folder: `run(out="a", steps=3)`."""

    def train(model_kind="bigram", **options):
        if options.get("mode") == "tensor":
            options.setdefault("threads", 1)
        return nanochat.train(TrainConfig(**tiny(model_kind, **options)))

    return train


def resume(out, **options):
    return nanochat.train(TrainConfig(resume=True, out=out, **options))


def weights_sha256(run: Path) -> str:
    newest = max((run / "checkpoints").glob("step-*"))
    return hashlib.sha256((newest / "weights.safetensors").read_bytes()).hexdigest()


def untimed_log(run) -> list[str]:
    """The lines of metrics.jsonl without the seconds."""
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [re.sub(r',"elapsed_s":[0-9.e-]+}$', "}", line) for line in lines]


def untimed(metrics):
    return {key: value for key, value in metrics.items() if key not in TIMINGS}


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
    assert set(saved) == set(asked.to_dict()) - optional - {"out", "resume"}
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


# ---------------------------------------------------------------------------------------- stdout


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


# ------------------------------------------------------------------------------------ the folder out


def test_a_used_folder_is_refused_and_left_as_it_is(run, refused, flags, tiny):
    run(out="run")
    before = {p: p.stat().st_mtime_ns for p in Path("run").rglob("*")}
    message = "out run already holds a run; add --resume to continue it, or choose another out"
    with pytest.raises(OutputError) as caught:
        run(out="run")
    assert str(caught.value) == message
    assert refused("train", *flags(**tiny(out="run")), "--quiet", code=1) == message
    assert {p: p.stat().st_mtime_ns for p in Path("run").rglob("*")} == before


# Holds a run's lock as a training process does, until its stdin is closed.
HOLD = """
import sys
from pathlib import Path
from nanochat.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_writer(out):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process.pid
        process.communicate("")


def contents(folder):
    return {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and p.name != LOCK}


def test_a_second_writer_is_refused_by_pid_and_host_and_changes_no_byte(run, refused, flags, tiny):
    run(out="run", eval_every=2)
    before = contents("run")
    new, again = [*flags(**tiny(out="run"))], ["--resume", "--out=run"]
    with other_writer("run") as pid:
        for words in (new, again):
            assert refused("train", *words, "--quiet", code=1) == (
                f"process {pid} on host {os.uname().nodename} writes to run; wait for it or choose"
                " another out"
            )
    assert contents("run") == before
    assert resume("run").metrics["steps"] == 6  # once the other has ended


def test_two_processes_that_start_a_run_of_one_name_at_once_leave_one_whole_run(
    folder, flags, tiny
):
    words = ["train", *flags(**tiny(out="run", steps=400, eval_every=100)), "--quiet"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "nanochat", *words], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1, 1], outputs
    for code, (_, err) in zip(codes, outputs, strict=True):
        assert re.fullmatch(r"(error: (process \d+ on host|out run already holds).*\n)?", err)
        assert bool(err) == bool(code)
    newest = load_checkpoint(Path("run/checkpoints/step-000400"))
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 400 + 5
    assert newest.trainer.metrics_length < Path("run/metrics.jsonl").stat().st_size
    assert not Path("run", LOCK).exists()


def test_processes_above_rank_0_neither_lock_nor_write(run, folder, monkeypatch):
    run(out="run", eval_every=2)
    before = contents(".")
    batcher = Dataset.batcher
    monkeypatch.setattr(Dataset, "batcher", lambda self, config, *_: batcher(self, config))
    monkeypatch.setattr("nanochat.system.processes.rank", lambda: 1)
    with other_writer("run"):
        assert resume("run").metrics["steps"] == 6
    assert run(out="new").run == Path("new")
    assert contents(".") == before and not Path("new").exists()


def test_a_killed_run_leaves_no_lock_that_needs_a_hand(run):
    run(out="run", eval_every=2)
    with other_writer("run") as pid:
        os.kill(pid, signal.SIGKILL)
    assert Path("run", LOCK).exists()
    assert resume("run").metrics["steps"] == 6
    assert not Path("run", LOCK).exists()


def test_a_folder_of_other_things_and_a_file_are_refused(run):
    Path("other").mkdir()
    Path("other/diary.txt").write_text("dear diary")
    for out in ("other", "names.txt"):
        with pytest.raises(OutputError) as caught:
            run(out=out)
        message = f"out {out} must be a new or an empty folder; choose another out"
        assert str(caught.value) == message
    assert [p.name for p in Path("other").iterdir()] == ["diary.txt"]


def test_an_empty_folder_and_a_deep_one_are_taken(run):
    Path("empty").mkdir()
    assert run(out="empty", steps=1).run == Path("empty")
    assert run(out="a/b/c", steps=1).run == Path("a/b/c")


def test_a_folder_below_a_file_cannot_be_made(run):
    with pytest.raises(OutputError) as caught:
        run(out="names.txt/run")
    assert str(caught.value) == (
        "cannot write names.txt/run: Not a directory; choose a writable out"
    )


def test_a_read_only_folder_is_one_clear_line(folder, flags, tiny):
    """In a process without root's rights, which no permission binds."""
    readonly = folder / "readonly"
    readonly.mkdir()
    readonly.chmod(0o555)
    script = (
        "import os, sys\n"
        "from nanochat.cli import main\n"
        "words = sys.argv[1:]\n"
        # Whatever is imported when it is used may lie where only root may read.
        "assert main([*words, '--out=first']) == 0\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "raise SystemExit(main([*words, '--out=readonly/run']))\n"
    )
    for parent in folder.parents:
        if parent.owner() != "root" or parent == Path(parent.anchor):
            break
        parent.chmod(parent.stat().st_mode | 0o055)
    folder.chmod(0o755)
    words = ["train", *flags(**tiny(steps=1)), "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=folder
    )
    readonly.chmod(0o755)
    assert done.stderr == (
        "error: cannot write readonly/run: Permission denied; choose a writable out\n"
    )
    assert done.returncode == 1
    assert not list(readonly.iterdir())


def test_a_full_disk_during_a_save_keeps_the_earlier_checkpoints(
    run, monkeypatch, refused, flags, tiny
):
    written = checkpoint_module.write_durably

    def full_at_step_4(path, content):
        if "step-000004" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, content)

    monkeypatch.setattr(checkpoint_module, "write_durably", full_at_step_4)
    options = tiny(out="run", eval_every=2, checkpoint_every=2)
    message = refused("train", *flags(**options), "--quiet", code=1)
    assert message == (
        "cannot write run/checkpoints/step-000004: No space left on device; free some space or"
        " choose another out"
    )
    kept = sorted(p.name for p in Path("run/checkpoints").iterdir())
    assert kept == ["best", "step-000002"]
    load_checkpoint(Path("run/checkpoints/step-000002"))


@pytest.mark.parametrize("name", ["config.toml", "environment.json", "result.json", "loss.svg"])
def test_a_full_disk_at_any_other_file_is_one_clear_line(
    name, folder, monkeypatch, refused, flags, tiny
):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    plain = Path.write_text

    def write_text(path, *args, **kwargs):
        return full() if name in path.name else plain(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write_text)
    message = refused("train", *flags(**tiny(out="run", num_samples=0)), "--quiet", code=1)
    assert message == (
        f"cannot write run/{name}: No space left on device; free some space or choose another out"
    )
    assert not list(Path("run").glob(".*"))


# ---------------------------------------------------------------------------- stopping and resuming


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
        "run/checkpoints holds no checkpoint; the run ended before its first one, so start a new"
        " run"
    )


def test_a_log_shorter_than_its_checkpoint_is_not_gone_on_with(run):
    run(out="run")
    Path("run/metrics.jsonl").write_bytes(b"")
    with pytest.raises(OutputError, match=r"^run/metrics.jsonl must have at least the"):
        resume("run")


# ------------------------------------------------------------------------------------ bad steps


def test_a_run_that_overflows_stops_and_names_step_and_last_good_checkpoint(run, mode):
    with pytest.raises(NonFiniteStep) as caught:
        run(mode=mode, out="run", steps=300, lr=1e4, optimizer="sgd", checkpoint_every=1,
            lr_schedule="constant", input_rmsnorm=False, dtype="float32")  # fmt: skip
    matched = re.fullmatch(
        r"step (\d+): (loss|gradient norm) is (nan|inf); weights are those after step (\d+);"
        r" last good checkpoint: (\S+); lower lr or set grad_clip",
        str(caught.value),
    )
    assert matched
    step, before = int(matched[1]), int(matched[4])
    assert before == step - 1
    newest = max(Path("run/checkpoints").glob("step-*"))
    assert matched[5] == (str(newest) if step > 1 else "none")
    checkpoint = load_checkpoint(newest)
    assert checkpoint.trainer.step == before
    for weights in checkpoint.state.weights.values():
        assert math.isfinite(float(abs(weights).max()))


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


# ------------------------------------------------------------------- every option changes something

CHANGES = {
    "n_layer": 2, "n_head": 1, "n_embd": 8, "block_size": 2, "activation": "relu2",
    "positions": "rope", "prev_token_tables": 1, "hash_embed_rows": 8, "ngram_order": 3,
    "tie_lm_head": True, "input_rmsnorm": False, "qk_norm": True,
    "logit_softcap": 0.05, "init_std": 0.5, "zero_init": True, "dropout": 0.5,
    "documents": "file", "tokenizer": "byte", "val_fraction": 0.5, "style": "futuristic", "batching": "windows",
    "steps": 7, "batch_size": 3, "grad_accum": 2, "optimizer": "sgd", "lr": 0.05,
    "matrix_lr": 0.05, "head_lr": 0.05, "lr_schedule": "sqrt", "warmup_ratio": 0.5,
    "warmdown_ratio": 0.2, "final_lr_frac": 0.5, "schedule_points": "0:0 2:0.9 6:1",
    "weight_decay": 0.5, "beta1": 0.5, "beta2": 0.5, "eps": 0.1, "grad_clip": 0.01, "seed": 1,
    "ema": 0.5,
    "dtype": "float64", "model_kind": "bigram", "preset": "microgpt",
}  # fmt: skip
SEEN_ELSEWHERE = {  # by which test; they are no option of the training itself
    "mode": "metrics_say_what_was_trained", "loss": "tensor engine", "compile": "tensor compiled", "device": "refused by the table",
    "numerics": "microgpt, parity", "data": "bad_input", "data_dir": "registry", "threads": "tensor", "deterministic": "tensor",
    "muon_momentum": "tensor muon", "ngram_share": "tensor mixture", "time_budget": "budget", "vocab_size": "bpe", "hash_embed_longest": "tensor models", "auto_batch": "tensor memory",
    "eval_every": "log", "eval_tokens": "below", "checkpoint_every": "resume", "keep": "best",
    "patience": "best", "baseline": "baseline", "separator": "documents", "text_column": "records",
    "deduplicate": "splits", "final_on_all": "final_on_all", "init_from": "init_from", "extend_vocabulary": "init_from",
    "memory_drift": "loop", "out": "folder", "resume": "resume", "num_samples": "stdout",
    "max_new_tokens": "sample", "temperature": "sample", "top_k": "sample", "top_p": "sample",
    "stop": "train_stop", "log": "event_log",
}  # fmt: skip


def test_every_option_of_a_run_is_accounted_for():
    assert {*CHANGES, *SEEN_ELSEWHERE} == set(options_of(TrainConfig))


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """The losses of the run from which the others differ, by engine."""
    return {}


@pytest.mark.parametrize("name", CHANGES)
def test_every_training_option_changes_the_losses_or_is_refused(
    run, tiny, mode, name, unchanged, records
):
    def losses(**options):
        model_kind = options.pop("model_kind", "mini-gpt")
        base = {"mode": mode, "steps": 4, "grad_clip": 0.1, "dtype": "float32", "num_samples": 0}
        if model_kind == "mini-gpt":
            base |= {"activation": "relu", "positions": "learned", "warmdown_ratio": 0.5}
        result = run(model_kind, **{**base, **options})
        return [r.get("loss", r.get("val_loss")) for r in records(result.run)]

    if mode not in unchanged:
        unchanged[mode] = losses()
    options = {name: CHANGES[name]}
    if name == "preset":  # everything else but what runs the test is the preset's
        config = TrainConfig(mode=mode, preset="microgpt", data="names.txt", documents="line",
                             steps=4, num_samples=0)  # fmt: skip
        assert config.n_embd == 16
        changed = [r.get("loss", r.get("val_loss")) for r in records(nanochat.train(config).run)]
    elif mode == "scalar" and name in ("dropout", "prev_token_tables", "hash_embed_rows"):
        with pytest.raises(nanochat.NanochatError, match=f"^mode scalar does not support {name}"):
            losses(**options)
        return
    else:
        changed = losses(**options)
    assert changed != unchanged[mode]


def test_fewer_evaluation_tokens_evaluate_a_part_of_the_set(run, records):
    everything = run(out="all", val_fraction=0.5).metrics
    part = run(out="part", val_fraction=0.5, eval_tokens=5).metrics
    assert part["best_val_loss"] != everything["best_val_loss"]
    assert everything["best_val_loss"] == everything["val_loss"]  # on all of the text
    assert weights_sha256(Path("all")) == weights_sha256(Path("part"))
