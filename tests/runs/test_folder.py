"""The run's folder: created once, never shared, found again."""

from __future__ import annotations

import json
import math
import os
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanochat.config.options import TrainConfig, options_of
from nanochat.config.sources import read_config_file
from nanochat.errors import OutputError
from nanochat.runs import folder as module
from nanochat.runs.folder import RUN_FILES, new_run, refuse_used
from nanochat.runs.lock import LOCK, locked


def test_runs_that_start_in_the_same_second_get_different_folders(folder, monkeypatch):
    monkeypatch.setattr(module.time, "strftime", lambda _: "20300101-000000")
    made: list[str] = []

    def create():
        with new_run(None, "x") as run:
            made.append(str(run.path))

    threads = [threading.Thread(target=create) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20
    assert {Path(path).parent for path in made} == {Path("runs")}


def test_the_saved_config_is_read_back_whatever_its_texts_hold(folder):
    data = 'a "quoted"\\ path\nwith é and 数 and \t tabs'
    config = TrainConfig(data=data, lr=0.1 + 0.2, mode="scalar", eps=5e-324, seed=2**32 - 1)
    with new_run("run", "") as run:
        run.write_config(config.to_dict())
    assert TrainConfig(**read_config_file("run/config.toml", options_of(TrainConfig))) == config


def test_figures_that_json_lacks_are_written_as_text(folder):
    with new_run("run", "") as run:
        pass
    run.write_json(run.result, {"loss": math.nan, "best": [math.inf, -math.inf], "path": Path("x")})
    text = run.result.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "loss": "nan", "best": ["inf", "-inf"], "path": "x",
    }  # fmt: skip


def test_the_names_that_a_run_writes_are_known(folder, tiny):
    import nanochat

    run = nanochat.train(TrainConfig(**tiny(out="run", steps=1))).run
    assert {p.name for p in run.iterdir()} <= RUN_FILES


def test_a_file_is_whole_or_absent(folder, monkeypatch):
    with new_run("run", "") as run:
        run.write_json(run.result, {"a": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(OutputError, match=r"^cannot write run/result.json: No space left"):
            run.write_json(run.result, {"a": 2})
    assert json.loads(Path("run/result.json").read_text()) == {"a": 1}
    assert {p.name for p in Path("run").iterdir()} == {"result.json", "checkpoints"}


def test_a_folder_that_cannot_be_looked_into_is_one_clear_line(folder, monkeypatch):
    Path("shut").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(OutputError) as caught, new_run("shut", ""):
        pass
    assert str(caught.value) == "cannot write shut: Permission denied; choose a writable out"


def test_of_two_writers_of_a_new_folder_the_second_is_refused_and_the_first_goes_on(folder):
    with new_run("run", "") as run:
        run.write_config({"steps": 3})
        message = rf"^process {os.getpid()} on host \S+ writes to run; wait for it or choose"
        with pytest.raises(OutputError, match=message), new_run("run", ""):
            pass
        with pytest.raises(OutputError, match=message):
            refuse_used(Path("run"))
        assert run.config.read_text() == "steps = 3\n"


def unstarted_run(folder: str = "run"):
    """What a run leaves that is killed during its first save."""
    with new_run(folder, "") as run:
        run.write_json(run.environment, {})
        run.write_config({"steps": 3})
        (run.path / ".result.json.tmp").write_text("{")
        run.metrics.write_text('{"kind":"eval"}\n')
        saving = run.checkpoints / ".saving-step-000000"
        saving.mkdir()
        (saving / "weights.safetensors").write_bytes(b"half")
    return run


def test_a_run_that_ended_before_its_first_checkpoint_can_be_started_again(folder):
    unstarted_run()
    with new_run("run", "") as run:
        assert {path.name for path in run.path.iterdir()} == {LOCK, "checkpoints"}
        assert not list(run.checkpoints.iterdir())


@pytest.mark.parametrize("path", ["checkpoints/step-000003", "checkpoints/.replaced-step-000003"])
def test_a_run_with_a_checkpoint_is_only_continued(folder, path):
    run = unstarted_run()
    (run.path / path).mkdir()
    with pytest.raises(OutputError) as caught, new_run("run", ""):
        pass
    assert str(caught.value) == (
        "out run already holds a run; add --resume to continue it, or choose another out"
    )
    assert run.metrics.exists()


def test_a_result_without_checkpoints_is_not_written_over(folder):
    run = unstarted_run()
    run.result.write_text("{}")
    with pytest.raises(OutputError, match="^out run already holds a run"), new_run("run", ""):
        pass
    assert run.result.exists()


def test_the_copy_of_a_text_is_not_removed(folder):
    run = unstarted_run()
    (run.path / "sources").mkdir()
    with pytest.raises(OutputError) as caught, new_run("run", ""):
        pass
    assert str(caught.value) == (
        "out run already holds a run; it ended before its first checkpoint, and run/sources has a"
        " copy of its text; remove it or choose another out"
    )
    assert run.metrics.exists()


def test_a_file_that_no_run_writes_keeps_the_folder_from_being_used(folder):
    run = unstarted_run()
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError) as caught, new_run("run", ""):
        pass
    assert str(caught.value) == "out run must be a new or an empty folder; choose another out"
    assert run.metrics.exists()


@pytest.mark.parametrize("path", [
    "config.toml", "counts/words.txt", "tensorboard/events.out", "checkpoints/epoch1.pt",
    "checkpoints/run/epoch1.pt", "metrics.jsonl",
])  # fmt: skip
def test_files_of_the_user_under_names_of_a_run_stay(folder, path):
    file = Path("run", path)
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(OutputError) as caught, new_run("run", ""):
        pass
    assert str(caught.value) == "out run must be a new or an empty folder; choose another out"
    assert [p for p in Path("run").rglob("*") if p.is_file()] == [file]
    assert file.read_text() == "mine"


def test_a_linked_folder_of_checkpoints_stays(folder):
    Path("elsewhere").mkdir()
    Path("run").mkdir()
    Path("run/checkpoints").symlink_to(Path("elsewhere").absolute())
    with pytest.raises(OutputError, match="^out run must be a new or"), new_run("run", ""):
        pass
    assert Path("run/checkpoints").is_symlink()


@pytest.mark.parametrize("names", [
    (), (".environment.json.tmp",), ("environment.json",),
    ("environment.json", ".config.toml.tmp"), ("environment.json", "config.toml"),
])  # fmt: skip
def test_a_run_that_ended_at_its_first_files_can_be_started_again(folder, names):
    Path("run/checkpoints").mkdir(parents=True)
    for name in names:
        Path("run", name).write_text("{")
    with new_run("run", "") as run:
        assert {path.name for path in run.path.iterdir()} == {LOCK, "checkpoints"}


def test_a_folder_that_holds_only_the_lock_of_a_dead_process_is_new(folder):
    Path("run").mkdir()
    owner = {"pid": 4194304, "host": os.uname().nodename, "started": None}  # above any on Linux
    Path("run", LOCK).write_text(json.dumps(owner))
    with new_run("run", "") as run:
        assert {path.name for path in run.path.iterdir()} == {LOCK, "checkpoints"}


def test_a_folder_that_another_process_filled_between_look_and_lock_is_refused(folder, monkeypatch):
    @contextmanager
    def slow(path):
        Path(path, "config.toml").write_text("")
        Path(path, "checkpoints/step-000001").mkdir(parents=True)
        with locked(path):
            yield

    monkeypatch.setattr(module, "locked", slow)
    with pytest.raises(OutputError, match="^out run already holds a run"), new_run("run", ""):
        pass


def test_a_new_folder_that_is_moved_once_it_is_locked_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clear = tmp_path / "run", module._clear_remains

    def moved(cleared: Path) -> None:
        clear(cleared)
        path.rename(tmp_path / "moved")

    monkeypatch.setattr(module, "_clear_remains", moved)
    refused = pytest.raises(OutputError, match=rf"^cannot write {path}: No such file or directory")
    with refused, new_run(str(path), "x"):
        raise AssertionError
    assert [entry.name for entry in tmp_path.iterdir()] == ["moved"]
