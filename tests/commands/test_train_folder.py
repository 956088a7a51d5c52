"""The folder of `nanochat train --out`: who may write to it, and what a full disk leaves."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands.run_files import resume

import nanochat
from nanochat.commands import train as commands_train
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import Dataset
from nanochat.errors import ConfigError, OutputError
from nanochat.runs import checkpoint as checkpoint_module
from nanochat.runs import reading
from nanochat.runs.checkpoint import load_checkpoint
from nanochat.runs.lock import LOCK
from nanochat.system import durable


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
    written = durable.write_durably

    def full_at_name(path, content):
        if name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, content)

    monkeypatch.setattr(durable, "write_durably", full_at_name)
    message = refused("train", *flags(**tiny(out="run", num_samples=0)), "--quiet", code=1)
    assert message == (
        f"cannot write run/{name}: No space left on device; free some space or choose another out"
    )
    assert not list(Path("run").glob(".*"))


def moved(run: Path) -> None:
    run.rename("elsewhere")


def removed(run: Path) -> None:
    shutil.rmtree(run)


def replaced(run: Path) -> None:
    """By a folder of the same name that another process has locked."""
    run.rename("elsewhere")
    (run / "checkpoints").mkdir(parents=True)
    (run / LOCK).write_text("{}")


GONE = (
    "cannot write run: the folder was moved, removed or replaced during the run; if it was moved,"
    " go on with --resume --out and its new path"
)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("change", [moved, removed, replaced])
def test_a_folder_that_is_gone_ends_the_run_at_its_next_save(folder, tiny, mode, change, resumed):
    """The old name is neither made anew nor written to, and a moved run can go on."""
    options = tiny(out="run", eval_every=2, checkpoint_every=2, mode=mode, lr_schedule="constant")
    if resumed:
        nanochat.train(TrainConfig(**{**options, "steps": 2}))
        options = {"resume": True, "out": "run", "steps": 6}

    def change_at_step_4(evaluation):
        if evaluation.step == 4:
            change(Path("run"))

    with pytest.raises(OutputError) as caught:
        nanochat.train(TrainConfig(**options), on_evaluation=change_at_step_4)
    assert str(caught.value) == GONE
    if change is replaced:
        assert sorted(p.name for p in Path("run").iterdir()) == [LOCK, "checkpoints"]
        assert not list(Path("run/checkpoints").iterdir())
    else:
        assert not Path("run").exists()
    if change is not removed:
        assert resume("elsewhere").metrics["steps"] == 6


def test_a_folder_that_is_gone_after_the_last_save_ends_the_run_before_its_result(run, monkeypatch):
    scored = commands_train._final_evaluation

    def move_first(*arguments):
        moved(Path("run"))
        return scored(*arguments)

    monkeypatch.setattr(commands_train, "_final_evaluation", move_first)
    with pytest.raises(OutputError) as caught:
        run(out="run", eval_tokens=0)
    assert str(caught.value) == GONE
    assert not Path("run").exists()


def test_all_that_a_resume_needs_is_on_disk_before_the_first_checkpoint_has_its_name(
    folder, tiny, monkeypatch
):
    """Files by their own fsync, names by that of their folder after they were given."""
    synced: dict[str, set[str]] = {}
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced[path] = set(os.listdir(path)) if os.path.isdir(path) else set()
        fsync(descriptor)

    lacking = []

    def watched_rename(source, target):
        rename(source, target)
        if lacking or not re.fullmatch(r"step-\d+", Path(target).name):
            return
        # A resume does without the log, and the name of the checkpoint is synced after this.
        rest = {LOCK, "metrics.jsonl", Path(target).name}
        run = Path("run").absolute()
        for path in [run.parent, run, *run.rglob("*")]:
            if path.is_dir() and path != Path(target).absolute():
                names = {p.name for p in path.iterdir()} if path != run.parent else {"run"}
                lacking.append((path.name, names - rest - synced.get(str(path), set())))
            elif (
                path.is_file() and path.name not in rest and path.parent != Path(target).absolute()
            ):
                by_other_name = path.with_name(f".{path.name}.tmp")
                lacking.append((path.name, {path, by_other_name}.isdisjoint(map(Path, synced))))

    class Stdin:
        buffer = io.BytesIO(Path("names.txt").read_bytes())

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(sys, "stdin", Stdin)
    options = tiny("mini-gpt", out="run", data="-", steps=1, ngram_order=2, num_samples=0)
    nanochat.train(TrainConfig(**options))
    names = {name for name, _ in lacking}
    assert names > {"run", "sources", "counts", "checkpoints", "index.json", "config.toml"}
    assert {name: what for name, what in lacking if what} == {}


def test_a_run_whose_checkpoints_could_not_be_read_again_is_refused_before_it_begins(folder, tiny):
    many = ("names.txt",) * 65_537
    with pytest.raises(ConfigError) as caught:
        nanochat.train(TrainConfig(**tiny(data=many, out="run")))
    assert str(caught.value) == (
        "cannot save this run in a checkpoint: data of config.json must be a list of 0 to 65,536"
        " items, got a JSON list; name a folder instead of very many files"
    )
    assert not Path("run").exists()


def test_a_tokenizer_that_no_checkpoint_can_hold_is_refused(folder, tiny, monkeypatch):
    monkeypatch.setitem(reading._MOST_BYTES, "tokenizer.json", 10)
    with pytest.raises(ConfigError) as caught:
        nanochat.train(TrainConfig(**tiny(out="run")))
    assert re.fullmatch(
        r"cannot save this run in a checkpoint: tokenizer\.json must have at most 10 bytes, got"
        r" \d+; use tokenizer byte", str(caught.value),
    )  # fmt: skip
    assert not Path("run").exists()
