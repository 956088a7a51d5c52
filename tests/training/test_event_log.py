"""`--log tensorboard`, read back by TensorBoard's own reader and compared with metrics.jsonl."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import nanochat
from nanochat.errors import MissingDependency, OutputError
from nanochat.training.event_log import EventLog

TAGS = {
    "train/loss": ("step", lambda r: r["loss"]),
    "train/learning_rate": ("step", lambda r: r["lr"]),
    "train/gradient_norm": ("step", lambda r: r["grad_norm"]),
    "validation/loss": ("eval", lambda r: r["val_loss"]),
    "validation/bits_per_byte": ("eval", lambda r: r["val_bpb"]),
    "train/tokens_per_second": (
        "eval", lambda r: r["tokens"] / r["elapsed_s"] if r["elapsed_s"] > 0 else None
    ),
}  # fmt: skip


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each tag, by TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    seen.Reload()
    return {tag: [(e.step, e.value) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.jsonl, rounded to float32 as events are."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {}
    for tag, (kind, value) in TAGS.items():
        pairs = [(r["step"], value(r)) for r in records if r["kind"] == kind]
        found[tag] = [(step, float(np.float32(v))) for step, v in pairs if v is not None]
    return {tag: pairs for tag, pairs in found.items() if pairs}


@pytest.fixture
def train(folder, tiny):
    def run(**options):
        return nanochat.train(tiny(**{"log": "tensorboard", "out": "run", **options}))

    return run


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_tensorboard_reads_the_figures_of_the_log(train, mode):
    result = train(mode=mode, threads=1)
    assert scalars(result.folder) == logged(result.folder)
    assert set(scalars(result.folder)) == set(TAGS)
    assert len(scalars(result.folder)["train/loss"]) == 6


def test_a_figure_that_is_missing_has_no_event(train):
    result = train(val_fraction=0.0)
    assert set(scalars(result.folder)) == {tag for tag in TAGS if not tag.startswith("validation/")}


def test_a_figure_that_is_not_finite_is_shown_as_such(tmp_path):
    log = EventLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")
    log.write({"kind": "step", "step": 1, "loss": float("nan"), "grad_norm": 1.0, "lr": 0.5})
    log.close()
    ((step, loss),) = scalars(tmp_path)["train/loss"]
    assert step == 1
    assert np.isnan(loss)


def test_a_resume_shows_no_step_twice_and_none_that_was_lost(train):
    whole = train(out="whole", checkpoint_every=2, keep="all", baseline=False)
    shutil.copytree("whole", "run")
    for step in (4, 6):  # as if the machine had failed after step 6
        shutil.rmtree(f"run/checkpoints/step-{step:06d}")
    nanochat.train({"resume": True, "out": "run"})
    assert len(list(Path("run/tensorboard").iterdir())) == 2
    assert scalars(Path("run")) == logged(Path("run"))
    for tag in ("train/loss", "validation/loss", "train/learning_rate"):
        assert scalars(Path("run"))[tag] == scalars(whole.folder)[tag]


def test_a_resume_may_begin_the_events_and_has_those_of_all_steps(train):
    def stop(evaluation):
        if evaluation.step == 4:
            raise ZeroDivisionError

    options = {"mode": "scalar", "data": "names.txt", "documents": "line", "model_kind": "bigram",
               "n_embd": 4, "steps": 6, "eval_every": 2, "out": "run", "num_samples": 0}  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        nanochat.train(options, on_evaluation=stop)
    assert not Path("run/tensorboard").exists()
    nanochat.train({"resume": True, "out": "run", "log": "tensorboard"})
    assert scalars(Path("run")) == logged(Path("run"))


def test_the_run_says_how_to_see_its_curves(folder, tiny, cli, flags):
    told = cli("train", *flags(**tiny(out="run a", log="tensorboard")))
    assert "to see the curves: tensorboard --logdir 'run a'" in told.err.splitlines()


def test_a_run_with_events_can_be_removed(train, cli):
    train(out="runs/a")
    assert cli("runs", "remove", "a", "--yes").code == 0
    assert list(Path("runs").iterdir()) == []


def test_without_the_package_the_error_names_the_extra_and_nothing_is_written(
    folder, tiny, flags, refused, monkeypatch
):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = refused("train", *flags(**tiny(out="run", log="tensorboard")))
    assert message == (
        "log tensorboard needs the package tensorboard; pip install 'nanochat-lab[tensorboard]'"
    )
    assert not Path("run").exists()
    with pytest.raises(MissingDependency):
        EventLog(folder / "metrics.jsonl", folder / "tensorboard")


def test_a_folder_that_cannot_be_written_is_one_clear_error(train, tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(OutputError, match=r"^cannot write .*tensorboard: File exists; choose a wr"):
        EventLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")


def test_a_full_disk_ends_the_run_with_one_clear_error(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")

    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "_records", Full())
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        log.write({"kind": "step", "step": 1, "loss": 1.0, "grad_norm": 1.0, "lr": 0.5})
    monkeypatch.undo()
    log.close()


def test_runs_without_events_never_import_tensorboard(folder, python, tiny, flags):
    code = (
        "import sys; from nanochat.cli import main; code = main(sys.argv[1:]);"
        "print(code, [m for m in ('tensorboard', 'google', 'torch') if m in sys.modules])"
    )
    done = python("-c", code, "train", *flags(**tiny(num_samples=0)), cwd=folder)
    assert done.stdout.splitlines()[-1] == "0 []"
