"""nanochat.load: which model a name means, as on the command line, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import nanochat
from nanochat.errors import (
    CheckpointError,
    ConfigError,
    NanochatError,
    UnsupportedDtype,
)


@pytest.fixture
def runs(folder, tiny):
    """Two finished runs in runs/; `old` is the older one, `new` has three checkpoints."""
    for name in ("old", "new"):
        options = tiny(out=f"runs/{name}", checkpoint_every=2, keep="all", num_samples=0)
        nanochat.train(nanochat.TrainConfig(**options))
    os.utime("runs/old/result.json", ns=(1, 1))
    return folder / "runs"


def as_words(arguments):
    run, checkpoint = arguments
    words = [] if run is None else [str(run)]
    return words if checkpoint is None else [*words, f"--checkpoint={checkpoint}"]


CHOICES = [
    (None, None), ("old", None), ("runs/old", None), (Path("runs") / "old", None), (None, "last"),
    (None, "best"), (None, 2), ("old", 4), ("old", "2"), (None, "runs/old"),
    (None, "runs/new/checkpoints/step-000002"), ("runs/new/checkpoints/step-000004", None),
    (None, Path("runs/old/checkpoints/step-000002")),
]  # fmt: skip


@pytest.mark.parametrize("arguments", CHOICES, ids=str)
def test_a_name_means_the_checkpoint_that_the_command_line_takes(arguments, runs, cli):
    run, checkpoint = arguments
    chosen = {} if checkpoint is None else {"checkpoint": checkpoint}
    model = nanochat.load(run, **chosen)
    shown = cli("sample", *as_words(arguments)).err
    assert re.search("sampling from (.*)", shown)[1] == str(model.checkpoint)
    assert model.checkpoint.name == f"step-{model.step:06d}"


REFUSED = [
    (
        {"checkpoint": "worst"}, CheckpointError,
        "checkpoint must be best, last, a step, or the path of a checkpoint or run, got worst: no run"
        " worst here or in runs",
    ),
    ({"run": "no"}, CheckpointError, "no run no here or in runs"),
    ({"run": "nwe"}, CheckpointError, "no run nwe here or in runs (did you mean 'new'?)"),
    ({"run": "new", "checkpoint": 3}, CheckpointError,
     "runs/new/checkpoints must hold the checkpoint of step 3, got steps 2, 4, 6; use"),
    ({"run": "new", "checkpoint": "runs/old"}, CheckpointError, "run new and checkpoint runs/old both"),
    ({"run": "names.txt"}, CheckpointError,
     "names.txt is not a nanochat checkpoint folder; name the folder of a run (pickle"),
    ({"mode": "torch"}, ConfigError, "mode must be one of auto, scalar, tensor, got torch"),
    ({"dtype": "int8"}, ConfigError, "dtype must be one of auto, float64, float32, bfloat16, got int8"),
    ({"mode": "scalar", "dtype": "bfloat16"}, UnsupportedDtype, "mode scalar does not support dtype"),
    ({"checkpoint": True}, ConfigError, "checkpoint must be text, got true"),
    ({"run": 5}, ConfigError, "run must be text, got 5"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=[r[2][:40] for r in REFUSED])
def test_what_cannot_be_loaded_is_one_clear_line(options, error, message, runs):
    with pytest.raises(NanochatError) as caught:
        nanochat.load(**options)
    assert type(caught.value) is error
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_without_a_run_the_error_says_how_to_get_one(folder):
    with pytest.raises(CheckpointError) as caught:
        nanochat.load()
    assert str(caught.value) == (
        "runs holds no run with a checkpoint; train one first or name a checkpoint"
    )


def damage(checkpoint: Path) -> None:
    weights = checkpoint / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_a_damaged_best_checkpoint_is_replaced_by_the_newest_with_a_warning(runs):
    best = nanochat.load("new").checkpoint
    damage(best)
    with pytest.warns(UserWarning, match="damaged") as caught:
        model = nanochat.load("new")
    assert model.checkpoint != best
    message = str(caught[0].message)
    assert message.startswith(f"{best}/weights.safetensors is damaged: its SHA-256 differs")
    assert message.endswith(f"using the newest checkpoint instead, {model.checkpoint.name}")
    assert caught[0].filename == __file__


def test_a_damaged_checkpoint_that_is_named_is_refused(runs):
    damage(runs / "new" / "checkpoints" / "step-000004")
    with pytest.raises(CheckpointError, match=r"step-000004/weights\.safetensors is damaged"):
        nanochat.load("new", checkpoint=4)


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_both_engines_load_every_run_and_agree(mode, trained):
    model = nanochat.load(trained.path, mode=mode, dtype="float64", threads=1)
    reference = nanochat.load(trained.path, threads=1)
    assert f"engine:     {mode}, cpu, float64" in repr(model)
    found, expected = model.next_tokens("an", 30), reference.next_tokens("an", 30)
    assert [piece for piece, _ in found] == [piece for piece, _ in expected]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], rtol=1e-12)
    np.testing.assert_allclose(model.loss("anna").nats, reference.loss("anna").nats, rtol=1e-12)


def test_options_of_the_training_do_not_keep_another_engine_from_loading(folder, tiny):
    options = tiny("mini-gpt", mode="tensor", steps=2, num_samples=0, out="run")
    nanochat.train({**options, "optimizer": "muon", "auto_batch": True, "ema": 0.5})
    scalar, tensor = (nanochat.load("run", mode=mode) for mode in ("scalar", "tensor"))
    np.testing.assert_allclose(scalar.loss("anna").nats, tensor.loss("anna").nats, rtol=1e-5)


def test_the_validation_is_that_of_the_checkpoint(trained, records):
    best = nanochat.load(trained.path)
    assert best.step == trained.metrics["best_step"]
    assert (best.validation.loss, best.validation.bpb) == (
        trained.metrics["val_loss"], trained.metrics["val_bpb"],
    )  # fmt: skip
    evaluations = {r["step"]: r for r in records(trained.path) if r["kind"] == "eval"}
    other = nanochat.load(trained.path, checkpoint=20 if best.step == 40 else 40)
    assert other.validation.loss == evaluations[other.step]["val_loss"]
    assert f"{other.step} of 40; the best is {best.step}" in repr(other)


def test_a_checkpoint_without_its_run_has_no_validation(trained, tmp_path):
    copy = tmp_path / "elsewhere" / "checkpoints" / "step-000040"
    shutil.copytree(nanochat.load(trained.path, checkpoint="last").checkpoint, copy)
    model = nanochat.load(copy)
    assert model.validation is None
    assert "validation: unknown" in repr(model)


def test_the_options_are_those_of_the_training(trained_gpt):
    config = nanochat.load(trained_gpt.path, mode="tensor", dtype="float32").config
    assert (config.mode, config.dtype, config.steps) == ("scalar", "float64", 40)


def test_nothing_is_printed_or_written(trained_gpt, capfd):
    before = sorted(trained_gpt.path.rglob("*"))
    model = nanochat.load(trained_gpt.path)
    model.generate("an")
    model.loss("an")
    assert capfd.readouterr() == ("", "")
    assert sorted(trained_gpt.path.rglob("*")) == before
