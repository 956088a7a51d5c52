"""`nanochat train` on a text that it overfits: what is kept, said, scored and sampled at the end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nanochat
from nanochat.config.options import EvalConfig, SampleConfig, TrainConfig
from nanochat.config.presets import PRESETS
from nanochat.errors import CheckpointError, ConfigError, RunInterrupted
from nanochat.runs.checkpoint import find_checkpoint, load_checkpoint, read_best
from nanochat.training.average import averaged_weights

# Eight names are learned by heart within a few dozen steps; the loss of the other four is lowest
# at step 15.
OVERFIT = {
    "n_embd": 8, "steps": 60, "eval_every": 3, "lr": 0.005, "lr_schedule": "constant",
    "batch_size": 4, "val_fraction": 0.3,
}  # fmt: skip


@pytest.fixture(params=["scalar", "tensor"])
def mode(request) -> str:
    return request.param


@pytest.fixture
def overfit(folder, tiny):
    def train(**options):
        if options.get("mode") == "tensor":
            options.setdefault("threads", 1)
        return nanochat.train(TrainConfig(**tiny("mini-gpt", **{**OVERFIT, **options})))

    return train


def losses(records, run) -> dict[int, float]:
    return {r["step"]: r["val_loss"] for r in records(run) if r["kind"] == "eval"}


def lowest(by_step) -> int:
    return min(by_step, key=by_step.get)


def untimed(metrics):
    return {k: v for k, v in metrics.items() if k not in ("steps_per_sec", "tokens_per_sec")}


def weights_of(path):
    return {n: a.tobytes() for n, a in averaged_weights(load_checkpoint(path).state).items()}


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_a_run_ends_with_the_weights_of_its_lowest_validation_loss(overfit, records, mode, ema):
    result = overfit(mode=mode, out="run", ema=ema)
    by_step = losses(records, result.run)
    best = lowest(by_step)
    assert 0 < best < 60
    assert result.metrics["best_step"] == best
    assert result.metrics["best_val_loss"] == result.metrics["val_loss"] == by_step[best]
    assert result.metrics["steps"] == 60
    found = find_checkpoint(result.run, "best")
    assert (found.trainer.step, found.skipped) == (best, [])
    path = str(found.path)
    scored = nanochat.evaluate(EvalConfig(checkpoint=path, threads=1))
    assert scored.loss == pytest.approx(by_step[best], rel=1e-12)
    sampled = nanochat.sample(
        SampleConfig(checkpoint=path, num_samples=2, max_new_tokens=8, seed=1337, threads=1)
    )
    assert sampled == list(result.samples)


def test_the_last_step_can_still_be_named_and_resumed(overfit):
    result = overfit(out="run")
    assert find_checkpoint(result.run, "last").trainer.step == 60
    assert sorted(p.name for p in Path("run/checkpoints").iterdir()) == [
        "best", f"step-{result.metrics['best_step']:06d}", "step-000060",
    ]  # fmt: skip


def test_the_end_says_which_step_is_kept_and_nothing_if_it_is_the_last(folder, cli, flags, tiny):
    told = cli("train", *flags(**tiny("mini-gpt", **OVERFIT, out="run")))
    best = json.loads(Path("run/result.json").read_text())["best_step"]
    line = f"validation has not improved since step {best}; keeping step {best}"
    assert told.err.splitlines().count(line) == 1
    assert f" best_step={best} best_val_loss=" in told.out
    improving = cli("train", *flags(**tiny("mini-gpt", out="other", steps=4, lr=1e-3)))
    assert " best_step=4 " in improving.out
    assert "keeping step" not in improving.err


def test_patience_stops_the_run_and_says_why(overfit, folder, cli, flags, tiny, records):
    by_step = losses(records, overfit(out="whole").run)
    told = cli("train", *flags(**tiny("mini-gpt", **OVERFIT, out="run", patience=4)))
    best, misses, end = 0, 0, None
    for step in sorted(by_step):
        best, misses = (step, 0) if by_step[step] < by_step[best] or not step else (
            best, misses + 1,
        )  # fmt: skip
        if misses == 4:
            end = step
            break
    assert end is not None and end < 60
    assert (
        f"stopped after step {end} of 60: 4 evaluations without a lower validation loss"
        " (patience 4)\n" in told.err
    )
    saved = json.loads(Path("run/result.json").read_text())
    assert (saved["steps"], saved["best_step"]) == (end, best)
    assert saved["val_loss"] == by_step[best]
    again = nanochat.train(TrainConfig(resume=True, out="run"))  # it ends at once, the same
    assert untimed(again.metrics) == untimed({k: saved[k] for k in again.metrics})


@pytest.mark.parametrize("options", [{"patience": 4}, {"ema": 0.9}, {"keep": "last:1"},
                                     {"ema": 0.6, "patience": 3, "keep": "all"}])  # fmt: skip
@pytest.mark.parametrize("step", [2, 9, 20])
def test_a_run_stopped_and_resumed_ends_the_same(overfit, stop_after, records, mode, step, options):
    whole = overfit(mode=mode, out="whole", **options)
    stop_after(step)
    with pytest.raises(RunInterrupted):
        overfit(mode=mode, out="cut", **options)
    stop_after(10**9)
    resumed = nanochat.train(TrainConfig(resume=True, out="cut"))
    assert untimed(resumed.metrics) == untimed(whole.metrics)
    assert resumed.samples == whole.samples
    assert losses(records, resumed.run) == losses(records, whole.run)
    for name in ("best", "last"):
        paths = [find_checkpoint(run.run, name).path for run in (whole, resumed)]
        assert paths[0].name == paths[1].name
        for file in ("weights.safetensors", "optimizer.safetensors"):
            assert (paths[0] / file).read_bytes() == (paths[1] / file).read_bytes()


def test_a_run_with_more_steps_keeps_the_best_of_all_its_evaluations(overfit, records):
    """Step 4 is evaluated as the last of four; of sixty it is not."""
    overfit(out="run", steps=4)
    best = read_best(Path("run/checkpoints"))
    longer = nanochat.train(TrainConfig(resume=True, out="run", steps=8, seed=1337))
    by_step = {**losses(records, longer.run), best.step: best.val_loss}
    assert longer.metrics["best_step"] == lowest(by_step)
    assert longer.metrics["best_val_loss"] == min(by_step.values())
    assert find_checkpoint(longer.run, "best").trainer.step == lowest(by_step)


@pytest.mark.parametrize(
    ("keep", "newest"), [("last:2,best", 2), ("last:3", 3), ("best", 1), ("all", 20)]
)
def test_keep_names_the_checkpoints_that_stay(overfit, keep, newest):
    result = overfit(out="run", checkpoint_every=3, keep=keep)
    best = result.metrics["best_step"]
    expected = {*sorted(range(3, 61, 3))[-newest:], best}
    found = {int(p.name[5:]) for p in Path("run/checkpoints").glob("step-*")}
    assert found - {0} == expected  # the first save also saves the best before it, step 0


def test_keep_may_differ_on_resume(overfit, stop_after):
    stop_after(31)
    with pytest.raises(RunInterrupted):
        overfit(out="run", checkpoint_every=3, keep="all")
    assert len(list(Path("run/checkpoints").glob("step-*"))) > 10
    stop_after(10**9)
    result = nanochat.train(TrainConfig(resume=True, out="run", keep="last:1"))
    found = {int(p.name[5:]) for p in Path("run/checkpoints").glob("step-*")}
    assert found == {60, result.metrics["best_step"]}


def test_a_best_that_is_lost_is_replaced_by_the_newest_with_a_warning(overfit, cli):
    best = overfit(out="run").metrics["best_step"]
    file = Path(f"run/checkpoints/step-{best:06d}/weights.safetensors")
    file.write_bytes(b"")
    told = cli("train", "--resume", "--out=run")
    assert told.code == 0
    assert f"warning: {file} is damaged: its manifest says" in told.err
    assert "; using the newest checkpoint instead, step-000060" in told.err


def test_without_a_validation_part_the_last_step_is_the_best(overfit):
    result = overfit(out="run", val_fraction=0.0)
    assert result.metrics["best_step"] == 60 and result.metrics["best_val_loss"] is None
    found = find_checkpoint(result.run, "best")
    assert (found.trainer.step, found.skipped) == (60, [])


def test_the_evaluation_plan_is_written_into_the_config(folder):
    Path("long.txt").write_text("To be, or not to be, that is the question.\n" * 2000)
    options = {
        "mode": "tensor",
        "preset": "mini",
        "data": "long.txt",
        "n_embd": 8,
        "n_layer": 1,
        "num_samples": 0,
        "threads": 1,
    }
    run = nanochat.train(TrainConfig(out="run", steps=40, batch_size=256, **options))
    config = find_checkpoint(run.run, "last").config
    # 0.24 * 40 steps of 256 * 16 tokens: nine evaluations of 4096 tokens or more. Every fifth step
    # makes eight.
    assert (config["eval_every"], config["eval_tokens"]) == (5, 4915)
    everything = nanochat.evaluate(EvalConfig(checkpoint="run", threads=1))
    assert everything.targets == 8601
    assert run.metrics["val_loss"] == pytest.approx(everything.loss, rel=1e-6)
    assert run.metrics["val_loss"] != run.metrics["best_val_loss"]
    # The values of now are kept on resume; asking for auto asks for nothing.
    again = nanochat.train(TrainConfig(resume=True, out="run", eval_every=-1, eval_tokens=-1))
    assert again.metrics["val_loss"] == run.metrics["val_loss"]
    with pytest.raises(ConfigError, match="^--resume keeps the saved eval_every 5, got 0;"):
        nanochat.train(TrainConfig(resume=True, out="run", eval_every=0))


def test_only_microgpt_has_a_cadence_of_its_own():
    trained = {name: values for name, values in PRESETS.items() if values["steps"] > 0}
    assert {name for name, values in trained.items() if "eval_every" in values} == {"microgpt"}
    assert PRESETS.keys() - trained.keys() == {"ngram"}


# -------------------------------------------------------------------------------------- killed runs

SCRIPT = "import sys; from nanochat.cli import main; raise SystemExit(main(sys.argv[1:]))"


@pytest.mark.parametrize("lines", [10, 60, 110])
def test_a_run_killed_at_any_moment_has_a_best_and_ends_the_same(
    folder, flags, tiny, lines, records, overfit
):
    """Every step is saved, so kills hit saves, removals and the naming of the best."""
    options = {"eval_every": 1, "checkpoint_every": 1, "keep": "last:2,best", "ema": 0.5}
    whole = overfit(out="whole", **options)
    words = flags(**tiny("mini-gpt", **{**OVERFIT, **options}, out="cut"))
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "train", *words], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log, deadline = Path("cut/metrics.jsonl"), time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") > lines):
        assert time.monotonic() < deadline and process.poll() in (None, 0)
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    last = find_checkpoint(Path("cut"), "last")
    assert last.skipped == []
    best = find_checkpoint(Path("cut"), "best")
    assert best.skipped == []
    by_step = losses(records, whole.run)
    before = {s: loss for s, loss in by_step.items() if s < last.trainer.step}
    assert by_step[best.trainer.step] <= min(before.values())
    resumed = nanochat.train(TrainConfig(resume=True, out="cut"))
    assert untimed(resumed.metrics) == untimed(whole.metrics)
    assert losses(records, resumed.run) == by_step
    kept = sorted(p.name for p in Path("cut/checkpoints").iterdir())
    assert kept == sorted(p.name for p in Path("whole/checkpoints").iterdir())


def test_a_checkpoint_of_an_older_version_goes_on(overfit, monkeypatch, stop_after):
    """Its trainer state has no best evaluation, and its run has no file `best`."""
    whole = overfit(out="whole")
    stop_after(7)
    with pytest.raises(RunInterrupted):
        overfit(out="old")
    stop_after(10**9)
    (path,) = Path("old/checkpoints").glob("step-000007")
    assert (path.parent / "best").exists()  # of the best evaluation before the stop
    new = ("best_step", "best_loss", "misses", "interval_loss", "interval_steps")
    checkpoint = load_checkpoint(path)
    trainer = json.loads((path / "trainer.json").read_text())
    assert set(new) < trainer.keys()
    from nanochat.runs import checkpoint as module

    old = {k: v for k, v in trainer.items() if k not in new}
    with monkeypatch.context() as patch:
        patch.setattr(module, "asdict", lambda _: old)
        module.save_checkpoint(
            path.parent, config={k: v for k, v in checkpoint.config.items() if k != "keep"},
            tokenizer=checkpoint.tokenizer, data=checkpoint.data, trainer=checkpoint.trainer,
            state=checkpoint.state,
        )  # fmt: skip
    (path.parent / "best").unlink()
    with pytest.raises(CheckpointError):
        read_best(path.parent)
    resumed = nanochat.train(TrainConfig(resume=True, out="old"))
    later = whole.metrics["best_step"] > 7
    assert later and resumed.metrics["best_step"] == whole.metrics["best_step"]
    assert re.fullmatch(r"step-0*\d+", find_checkpoint(resumed.run, "best").path.name)
