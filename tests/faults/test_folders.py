"""Limits, full and read-only disks, folders that vanish or are replaced, and two writers.

Each ends with one line or with success, leaves no process and no hidden file, and keeps all that was
saved: the run can be resumed, and ends with the bits of a run that nothing disturbed.
"""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from faults.commands import (
    Commands,
    Done,
    final_state,
    has_checkpoint,
    hidden_files,
    whole_checkpoints,
)
from faults.disk import read_state
from faults.lives import OPTIONS, STEPS, Lives

TENSOR = (
    "--mode=tensor", "--preset=mini", "--n-embd=16", "--n-layer=1", "--threads=1",
    *(word for word in OPTIONS if not word.startswith(("--mode", "--preset", "--n-"))),
)  # fmt: skip


def differences(lives: Lives, run: Path) -> list[str]:
    state = final_state(run, STEPS)
    return [f"other bits of {key}" for key in lives.state if state[key] != lives.state[key]]


def after(lives: Lives, done: Done, run: Path) -> list[str]:
    """Return what is wrong with how a run ended, and with the run that goes on from there."""
    found = [text for text in [done.complaint()] if text]
    if run.is_dir():
        if others := whole_checkpoints(run)[1]:
            found.append(f"not whole: {others}")
        if hidden := hidden_files(run):
            found.append(f"left behind: {hidden}")
    return found + next_start(lives, run)


def next_start(lives: Lives, run: Path) -> list[str]:
    again = lives.train(run)
    if again.code != 0:
        return [f"the next start: {again.code} {again.err[-300:]!r}"]
    found = differences(lives, run)
    if hidden := hidden_files(run):
        found.append(f"left after the next start: {hidden}")
    return found


@pytest.fixture(scope="module")
def lives(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    return Lives(commands, tmp_path_factory.mktemp("folders"))


# ------------------------------------------------------------------------------------------- limits


def under_limits(lives: Lives, name: str, limits: Sequence[int]) -> tuple[list[str], int]:
    """Return what is wrong under limits that grow until a run succeeds, and how many there were."""
    found: list[str] = []
    for number, limit in enumerate(limits, 1):
        lives.begin("new")
        done = lives.train(lives.run, **{name: limit})
        found += [f"{name} {limit}: {text}" for text in after(lives, done, lives.run)]
        if done.code == 0:
            assert number > 1, "the first limit was enough"
            return found, number
    return [*found, f"no success with {name} {limits[-1]}"], len(limits)


# Bytes, from those of the longest message on, and descriptors.
LIMITS = {"file_size": range(500, 100_000, 100), "open_files": range(4, 100)}


@pytest.mark.parametrize(("name", "stride"), [("file_size", 12), ("open_files", 2)])
def test_a_run_under_some_limits_ends_with_one_line(lives: Lives, name: str, stride: int) -> None:
    assert under_limits(lives, name, LIMITS[name][::stride])[0] == []


@pytest.mark.long
@pytest.mark.parametrize("name", LIMITS)
def test_a_run_under_any_limit_ends_with_one_line(
    lives: Lives, name: str, tried: Callable[..., None]
) -> None:
    found, number = under_limits(lives, name, LIMITS[name])
    assert found == []
    tried(limits=number)


# -------------------------------------------------------------------------- full and read-only disks


class MountedDisk:
    """A tmpfs in a mount namespace."""

    def __init__(self, build: Path, folder: Path) -> None:
        self.commands = Commands(build, prefix=("unshare", "-Urm"))
        self.mounted = folder / "disk"
        self.mounted.mkdir()
        self.commands.shell(f"mount -t tmpfs none {self.mounted}")

    def begin(self, kilobytes: int) -> Mapping[str, Any]:
        self.commands.shell(
            f"umount {self.mounted} && mount -t tmpfs -o size={kilobytes}k none {self.mounted}"
        )
        return {}

    def grow(self) -> None:
        self.commands.shell(f"mount -o remount,size=10m {self.mounted}")

    def read_only(self, kept: Path) -> Mapping[str, Any]:
        self.begin(10_000)
        self.commands.shell(
            f"cp -r {kept} {self.mounted}/run && mount -o remount,ro {self.mounted}"
        )
        return {}


class FailingDisk:
    """The same by failing calls, where no namespace may be made."""

    def __init__(self, build: Path, folder: Path) -> None:
        self.commands = Commands(build)
        self.mounted = folder / "disk"

    def _fault(self, kinds: str, at: int, error: int) -> Mapping[str, Any]:
        fault = {"below": str(self.mounted), "kinds": kinds, "at": at, "error": error}
        return {"fault": {**fault, "persists": True}}

    def begin(self, kilobytes: int) -> Mapping[str, Any]:
        shutil.rmtree(self.mounted, ignore_errors=True)
        self.mounted.mkdir()
        # A save writes seven files of about two kilobytes.
        return self._fault("write", 1 + kilobytes // 4, errno.ENOSPC)

    def grow(self) -> None:
        pass

    def read_only(self, kept: Path) -> Mapping[str, Any]:
        self.begin(0)
        shutil.copytree(kept, self.mounted / "run")
        return self._fault("open-to-write mkdir rename unlink rmdir", 1, errno.EROFS)


Disk = MountedDisk | FailingDisk


def may_mount() -> bool:
    done = subprocess.run(["unshare", "-Urm", "true"], capture_output=True)
    return done.returncode == 0


@pytest.fixture(scope="module", params=[MountedDisk, FailingDisk])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Disk]:
    kind = request.param if may_mount() else FailingDisk
    made = kind(tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("disk"))
    yield made
    made.commands.close()


def on_disk(lives: Lives, disk: Disk) -> Lives:
    """Return the same lives with a run on this disk."""
    moved = object.__new__(Lives)
    moved.__dict__.update(vars(lives))
    moved.commands, moved.run = disk.commands, disk.mounted / "run"
    return moved


def on_full_disks(lives: Lives, disk: Disk, sizes: Sequence[int]) -> tuple[list[str], int]:
    """Return what is wrong on disks that grow until a run succeeds, and how many there were."""
    found: list[str] = []
    there, run = on_disk(lives, disk), disk.commands.seen(disk.mounted / "run")
    for number, kilobytes in enumerate(sizes, 1):
        request = disk.begin(kilobytes)
        words = ["train", "--data=names.txt", *OPTIONS, f"--out={there.run}"]
        done = disk.commands.run(*words, cwd=lives.folder, **request)
        place = f"{kilobytes} KB: "
        if complaint := done.complaint():
            found.append(place + complaint)
        if run.is_dir() and (others := whole_checkpoints(run)[1] + hidden_files(run)):
            found.append(f"{place}left behind: {others}")
        if done.code == 0:
            assert number > 1, "the first disk was large enough"
            return found, number
        if "No space left on device; free some space or choose another out" not in done.err:
            found.append(place + done.err)
        disk.grow()
        if has_checkpoint(run):
            words = ["train", "--resume", "--quiet", f"--out={there.run}"]
        again = disk.commands.run(*words, cwd=lives.folder)
        if again.code != 0:
            found.append(f"{place}the next start: {again.err[-300:]!r}")
            continue
        found += [place + text for text in differences(lives, run)]
        if hidden := hidden_files(run):
            found.append(f"{place}left after the next start: {hidden}")
    return [*found, f"no success on {sizes[-1]} KB"], len(sizes)


def test_a_run_on_some_full_disks_ends_with_one_line(lives: Lives, disk: Disk) -> None:
    assert on_full_disks(lives, disk, range(8, 600, 32))[0] == []


@pytest.mark.long
def test_a_run_on_any_full_disk_ends_with_one_line(
    lives: Lives, disk: Disk, tried: Callable[..., None]
) -> None:
    found, number = on_full_disks(lives, disk, range(8, 600, 4))
    assert found == []
    tried(disks=number)


def test_a_run_on_a_read_only_disk_can_be_read_and_is_not_changed(lives: Lives, disk: Disk) -> None:
    request = disk.read_only(lives.kept)
    run, seen = disk.mounted / "run", disk.commands.seen(disk.mounted)
    before = read_state(seen, ["run"])
    for command in ("info", "sample", "eval"):
        done = disk.commands.run(command, str(run), cwd=lives.folder, **request)
        assert (done.code, done.complaint()) == (0, None), command
    way_out = "Read-only file system; choose a writable out\n"
    for words, path in (
        (("train", "--resume", "--quiet", f"--out={run}", f"--steps={STEPS + 1}"), run / ".lock"),
        (("train", "--data=names.txt", *OPTIONS, f"--out={run.parent}/new"), run.parent / "new"),
    ):
        done = disk.commands.run(*words, cwd=lives.folder, **request)
        assert (done.code, done.err) == (1, f"error: cannot write {path}: {way_out}")
    assert read_state(seen, ["run"]) == before
    assert [path.name for path in seen.iterdir()] == ["run"]


# ------------------------------------------------------------------- folders that move or are replaced

# What is done to the folder → the command, and what must lie there in the end
CHANGES: Mapping[str, tuple[str, Callable[[Path], object], object]] = {
    "moved": ("mv run moved", Path.exists, False),
    "removed": ("rm -rf run", Path.exists, False),
    "replaced by an empty folder": ("mv run moved && mkdir run", lambda p: list(p.iterdir()), []),
    "replaced by a file": ("mv run moved && echo text > run", Path.read_text, "text\n"),
    "replaced by another run": (
        "mv run moved && cp -r kept run", lambda p: read_state(p, ["."]), "kept",
    ),
    "replaced by its copy": ("mv run moved && cp -r moved run", has_checkpoint, None),
}  # fmt: skip
BETWEEN_WRITES = {"replaced by an empty folder", "replaced by another run", "replaced by its copy"}


class Moving:
    """A run whose folder changes before the nth call on it."""

    def __init__(self, commands: Commands, folder: Path, options: Sequence[str]) -> None:
        self.lives = Lives(commands, folder, options)
        self.folder, self.run, self.moved = folder, folder / "run", folder / "moved"
        log = folder / "calls"
        done = self.lives.train(self.run, fault=self._fault(0, log=str(log)))
        assert done.code == 0, done
        self.calls = log.read_text(encoding="utf-8").splitlines()
        self.last = self.calls.index("rename /result.json") + 1

    def _fault(self, at: int, **more: object) -> Mapping[str, object]:
        return {"below": str(self.run), "kinds": "all", "at": at, "error": 0, **more}

    def moments(self, change: str) -> Sequence[int]:
        """Return the numbers of the calls, from 1, before which the folder may change in this way.

        A write begins with a look whether the folder is the one that was locked, and may go to a
        folder that takes its place during the write. So only lines of the log, which is open, are
        moments for that.
        """
        numbers = range(self.calls.index("ftruncate /.lock") + 2, len(self.calls) + 1)
        if change not in BETWEEN_WRITES:
            return numbers
        in_log = ("write /metrics.jsonl", "fsync /metrics.jsonl")
        return [at for at in numbers if self.calls[at - 1] in in_log]

    def complaints(self, change: str, at: int) -> list[str]:
        action, look, expected = CHANGES[change]
        for path in (self.run, self.moved):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        done = self.lives.train(self.run, fault=self._fault(at, action=action))
        found = [text for text in [done.complaint()] if text]
        if done.code == 0 and at <= self.last:
            found.append("it says that it succeeded")
        if expected == "kept":
            expected = read_state(self.lives.kept, ["."])
        if expected is not None and (there := look(self.run)) != expected:
            found.append(f"in place of the folder: {there!r:.300}")
        if change != "removed":
            found += next_start(self.lives, self.moved)
        if change in ("moved", "removed", "replaced by its copy"):
            found += next_start(self.lives, self.run)
        return found


@pytest.fixture(scope="module")
def moving(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Moving:
    return Moving(commands, tmp_path_factory.mktemp("moving"), OPTIONS)


def changed_at(moving: Moving, change: str, moments: Sequence[int]) -> list[str]:
    found = []
    for at in moments:
        place = f"{change} before call {at}, {moving.calls[at - 1]}"
        found += [f"{place}: {text}" for text in moving.complaints(change, at)]
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_changes_at_some_moments_ends_its_run_with_one_line(
    moving: Moving, change: str
) -> None:
    chosen = random.Random(change).sample(moving.moments(change), 4)
    assert changed_at(moving, change, chosen) == []


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_changes_at_any_moment_ends_its_run_with_one_line(
    moving: Moving, change: str, tried: Callable[..., None]
) -> None:
    moments = moving.moments(change)
    assert changed_at(moving, change, moments) == []
    tried(moments=len(moments))


@pytest.mark.long
def test_the_folder_of_a_tensor_run_that_changes_ends_it_with_one_line(
    tmp_path: Path, tried: Callable[..., None]
) -> None:
    commands = Commands(tmp_path, imports=False)
    try:
        (tmp_path / "lives").mkdir()
        moving = Moving(commands, tmp_path / "lives", TENSOR)
        draw, found, count = random.Random(0), [], 0
        for change in CHANGES:
            moments = draw.sample(moving.moments(change), 4)
            found += changed_at(moving, change, moments)
            count += len(moments)
        assert found == []
        tried(moments=count)
    finally:
        commands.close()


# --------------------------------------------------------------------------------------- two writers


class Writers:
    """Two servers, whose commands run at the same time."""

    def __init__(self, first: Commands, folder: Path, build: Path) -> None:
        self.lives = Lives(first, folder)
        self.both = [first, Commands(build)]
        began = time.monotonic()
        self.lives.begin("new")
        self.lives.train(self.lives.run)
        self.seconds = time.monotonic() - began

    def complaints(self, kind: str, seed: int) -> list[str]:
        """Return what is wrong after two commands on one folder: `kind` names both."""
        lives, draw, run = self.lives, random.Random(seed), self.lives.run
        lives.begin("new")
        if kind != "train and train":
            shutil.copytree(lives.kept, run)
            shutil.rmtree(run / f"checkpoints/step-{STEPS:06d}")
            shutil.rmtree(run / f"checkpoints/step-{STEPS - 1:06d}")
            (run / "result.json").unlink()
        words = {
            "train": ["train", "--data=names.txt", *OPTIONS, f"--out={run}"],
            "resume": ["train", "--resume", "--quiet", f"--out={run}"],
        }
        delays = [0.0, draw.uniform(0, self.seconds)]
        done: list[Done | None] = [None, None]

        def start(index: int, name: str) -> None:
            time.sleep(delays[index])
            done[index] = self.both[index].run(*words[name], cwd=lives.folder)

        threads = [
            threading.Thread(target=start, args=each) for each in enumerate(kind.split(" and "))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [text for each in done if each is not None and (text := each.complaint())]
        found += [
            f"refused with {each.err!r}"
            for each in done
            if each is not None and each.code and not refuses(each.err)
        ]
        if all(each is not None and each.code for each in done):
            found.append(f"nobody trained: {done}")
        if hidden := hidden_files(run):
            found.append(f"left behind: {hidden}")
        return found + next_start(lives, run)


def refuses(line: str) -> bool:
    """Whether it is the answer of a command that lets another one write."""
    return any(
        text in line
        for text in (
            "; wait for it or choose another out", "another process writes to",
            "already holds a run; ", "must be a new or an empty folder", "holds no checkpoint; ",
        )
    )  # fmt: skip


WRITERS = ("train and train", "train and resume", "resume and train", "resume and resume")


@pytest.fixture(scope="module")
def writers(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writers]:
    made = Writers(commands, tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("build"))
    yield made
    made.both[1].close()


@pytest.mark.parametrize("kind", WRITERS)
def test_of_two_writers_one_is_refused(writers: Writers, kind: str) -> None:
    assert [text for seed in range(4) for text in writers.complaints(kind, seed)] == []


@pytest.mark.long
@pytest.mark.parametrize("kind", WRITERS)
def test_of_two_writers_at_any_moment_one_is_refused(
    writers: Writers, kind: str, tried: Callable[..., None]
) -> None:
    found = {seed: writers.complaints(kind, seed) for seed in range(150)}
    assert {seed: texts for seed, texts in found.items() if texts} == {}
    tried(pairs=150)
