"""The size of a block decides nothing that a run computes, logs or saves."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest

import nanochat
from nanochat.config.options import TrainConfig
from nanochat.errors import NonFiniteStep
from nanochat.training import blocks
from nanochat.training.cadence import Cadence
from nanochat.training.metrics import JsonlWriter
from nanochat.training.pace import StepPace

OPTIONS = {
    "mode": "scalar", "preset": "microgpt", "n_embd": 4, "n_head": 2, "block_size": 8, "steps": 40,
    "eval_every": 7, "eval_tokens": 50, "num_samples": 0,
}  # fmt: skip


def train(folder, **options):
    """Return the records without their times, and the weights, by file name."""
    run = nanochat.train(TrainConfig(**{**OPTIONS, **options, "out": str(folder)})).run
    weights = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("checkpoints/*/*.safetensors"))
    }
    return records_of(run), weights


def records_of(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "elapsed_s"} for line in lines]


def test_a_run_in_blocks_logs_and_saves_what_a_run_of_single_steps_does(tmp_path, monkeypatch):
    options = {"checkpoint_every": 5, "keep": "all"}
    monkeypatch.setattr(blocks, "BLOCK_S", math.inf)
    in_blocks = train(tmp_path / "blocks", **options)
    monkeypatch.setattr(blocks, "LARGEST_BLOCK", 1)
    single = train(tmp_path / "single", **options)
    assert in_blocks == single
    assert [r["step"] for r in in_blocks[0] if r["kind"] == "step"] == list(range(1, 41))
    evaluated = [r["step"] for r in in_blocks[0] if r["kind"] == "eval"]
    assert evaluated == [0, 7, 14, 21, 28, 35, 40]


def test_a_stopped_run_that_is_resumed_ends_like_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_S", math.inf)
    whole = train(tmp_path / "whole")
    asked = []

    def stop_after_some_blocks(self, *args, **kwargs):
        asked.append(None)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return start(self, *args, **kwargs)

    start = blocks.Blocks.start
    monkeypatch.setattr(blocks.Blocks, "start", stop_after_some_blocks)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", checkpoint_every=3)
    monkeypatch.setattr(blocks.Blocks, "start", start)
    resumed = nanochat.train(TrainConfig(out=str(tmp_path / "stopped"), resume=True)).run
    assert records_of(resumed) == whole[0]


def test_a_step_that_is_not_finite_is_named_and_the_steps_before_it_are_logged(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_S", math.inf)
    monkeypatch.setattr(blocks, "_peaks", lambda config: [1e300] * 3)
    with pytest.raises(NonFiniteStep, match=r"step 2: .*weights are those after step 1"):
        train(tmp_path / "run", lr_schedule="constant", eval_every=0)
    steps = [r["step"] for r in records_of(tmp_path / "run") if r["kind"] == "step"]
    assert steps == [1]


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1.0])
def test_the_size_of_a_block_grows_by_two_and_keeps_within_its_bounds(seconds):
    # The size depends on neither engine nor batcher.
    taken = blocks.Blocks(None, TrainConfig(), None, StepPace(TrainConfig()))  # type: ignore[arg-type]
    sizes = []
    for _ in range(20):
        sizes.append(taken._size)
        taken._measure(taken._size, seconds * taken._size)
    assert sizes[0] == 1
    assert all(b <= 2 * a for a, b in pairwise(sizes))
    assert sizes[-1] == (1 if seconds == 1.0 else blocks.LARGEST_BLOCK)


@pytest.mark.parametrize("steps", [None, 30])
@pytest.mark.parametrize("eval_every", [0, 4, 7])
@pytest.mark.parametrize("checkpoint_every", [0, 6])
def test_the_next_event_is_the_first_step_with_one(steps, eval_every, checkpoint_every):
    cadence = Cadence(steps, eval_every, checkpoint_every)
    for step in range(30):
        later = [
            s for s in range(step + 1, 31) if cadence.evaluates(s) or cadence.checkpoints(s)
        ]  # fmt: skip
        assert cadence.next_event(step) == (later[0] if later else math.inf) or (
            steps is None and cadence.next_event(step) > 30
        )


@pytest.mark.parametrize("schedule", ["linear", "sqrt", "cosine", "constant"])
def test_the_multipliers_of_a_block_are_those_of_its_steps(schedule):
    decay = {} if schedule == "constant" else {"warmdown_ratio": 0.5}
    config = TrainConfig(steps=50, lr_schedule=schedule, warmup_ratio=0.2, **decay)
    pace = StepPace(config)
    assert pace.lr_multipliers(3, 40) == [pace.lr_multiplier(step) for step in range(3, 43)]


def test_the_lines_of_a_block_are_those_of_its_records(tmp_path):
    losses, norms = [1 / 3, 1e-17, 5e300], [0.1, 12345678.9, 1e16]
    rates, tokens = [[0.01, 0.01, 0.01], [0.0, 0.5, 0.25], [1e-5, 1e-5, 3.0]], [7, 10, 1 << 40]
    several, single = JsonlWriter(tmp_path / "several"), JsonlWriter(tmp_path / "single")
    several.write_steps(9, losses, norms, rates, tokens, 12.345678)
    steps = zip(losses, norms, rates, tokens, strict=True)
    for step, (loss, norm, (lr, matrix_lr, head_lr), trained) in enumerate(steps, start=9):
        record = {"kind": "step", "step": step, "loss": loss, "grad_norm": norm, "lr": lr}
        record |= {"matrix_lr": matrix_lr, "head_lr": head_lr, "tokens": trained}
        single.write({**record, "elapsed_s": 12.345678})
    several.close()
    single.close()
    assert (tmp_path / "several").read_bytes() == (tmp_path / "single").read_bytes()
