"""Every system call of a run's life fails once, or is its last: nothing that was saved is lost.

Three lives: a new run; a resume that replaces a damaged checkpoint; a resume after a replacement
that was killed. After a fault, the command ends with one line of error or with the result of a run
without a fault, every checkpoint is whole, and the next start reaches the same bits.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TEXT
from faults.commands import (
    Commands,
    Done,
    final_state,
    has_checkpoint,
    hidden_files,
    whole_checkpoints,
)  # fmt: skip

STEPS = 3
OPTIONS = (
    "--mode=scalar", "--preset=microgpt", "--n-embd=4", "--n-head=2", f"--steps={STEPS}",
    "--checkpoint-every=1", "--eval-every=2", "--eval-tokens=60", "--num-samples=1",
    "--max-new-tokens=5", "--keep=all", "--quiet",
)  # fmt: skip
NEWEST = f"checkpoints/step-{STEPS:06d}"
BEFORE = f"checkpoints/step-{STEPS - 1:06d}"


class Fault(NamedTuple):
    name: str
    error: int  # 0: the process is killed
    persists: bool = False


FAULTS = (
    Fault("EIO", errno.EIO), Fault("killed", 0), Fault("EIO from then on", errno.EIO, True),
    Fault("ENOSPC from then on", errno.ENOSPC, True), Fault("EDQUOT", errno.EDQUOT),
    Fault("EINTR", errno.EINTR),
)  # fmt: skip
GATE_FAULTS, GATE_STRIDE = FAULTS[:2], 7  # of the calls of a life, the others by --long


class Lives:
    """The runs from which the lives begin, and what each must reach."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self.commands, self.folder, self.run = commands, folder, folder / "run"
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        self.kept = folder / "kept"
        done = self.train(self.kept)
        assert done.code == 0, done
        self.state = final_state(self.kept, STEPS)

    def train(self, run: Path, **request: Any) -> Done:
        """Begin a run, or resume it where its folder has a checkpoint."""
        words = ["train", "--data=names.txt", *OPTIONS, f"--out={run}"]
        if has_checkpoint(run):
            words = ["train", "--resume", "--quiet", f"--out={run}"]
        return self.commands.run(*words, cwd=self.folder, **request)

    def new(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)

    def damaged(self) -> None:
        self.new()
        shutil.copytree(self.kept, self.run)
        weights = self.run / NEWEST / "weights.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)

    def cut_off(self) -> None:
        """As a kill leaves it between the two renames of a save that replaces a checkpoint."""
        self.new()
        shutil.copytree(self.kept, self.run)
        shutil.rmtree(self.run / NEWEST)
        step = Path(BEFORE).name
        (self.run / BEFORE).rename(self.run / f"checkpoints/.replaced-{step}")
        saving = self.run / f"checkpoints/.saving-{step}"
        saving.mkdir()
        (saving / "weights.safetensors").write_bytes(b"x")

    def calls(self, begin: Callable[[], None]) -> list[str]:
        """Return the calls of a life without a fault, in order: kind and path."""
        begin()
        log = self.folder / "calls"
        done = self.train(self.run, fault=self._fault(0, 0, False, log=str(log)))
        assert done.code == 0, done
        assert final_state(self.run, STEPS) == self.state
        return log.read_text(encoding="utf-8").splitlines()

    def _fault(self, at: int, error: int, persists: bool, **more: Any) -> Mapping[str, Any]:
        fault = {"below": str(self.run), "kinds": "all", "at": at, "error": error}
        return {**fault, "persists": persists, **more}

    def differences(self, warned: str) -> list[str]:
        """Return what a finished run has computed otherwise. If the best checkpoint could not be
        read, the newest one is scored, which a warning says. If the size of its weights could not
        be read, the result has null for it."""
        state = dict(final_state(self.run, STEPS))
        if state["result"]["weights_bytes"] is None:
            known = self.state["result"]["weights_bytes"]
            state["result"] = {**state["result"], "weights_bytes": known}
        names = [name for name in self.state if state.get(name) != self.state[name]]
        if "using the newest checkpoint instead" in warned:
            names.remove("result")
        return [f"other bits of {name}" for name in names]

    def complaints(self, begin: Callable[[], None], at: int, fault: Fault) -> list[str]:
        """Return what is wrong after the fault at the nth call of a life; empty if nothing is."""
        begin()
        acknowledged = set(whole_checkpoints(self.run)[0])
        done = self.train(self.run, fault=self._fault(at, fault.error, fault.persists))
        found = []
        if fault.error and (complaint := done.complaint()):
            found.append(complaint)
        if done.code == 0:
            found += self.differences(done.err)
        whole, others = whole_checkpoints(self.run)
        if begin != self.new:
            others = [name for name in others if name != Path(NEWEST).name]
        if others:
            found.append(f"checkpoints that are not whole: {others}")
        # One that was replaced keeps its content until its name has moved.
        lost = acknowledged - set(whole)
        if lost and not any((self.run / "checkpoints").glob(".replaced-*")):
            found.append(f"lost: {lost}")
        again = self.train(self.run)
        if again.code != 0:
            return [*found, f"the next start: {again.code} {again.err[-300:]!r}"]
        found += [f"after the next start: {text}" for text in self.differences("")]
        if hidden := hidden_files(self.run):
            found.append(f"left behind: {hidden}")
        return found


@pytest.fixture(scope="module")
def lives(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    return Lives(commands, tmp_path_factory.mktemp("lives"))


def failures(lives: Lives, life: str, faults: tuple[Fault, ...], stride: int) -> list[str]:
    begin = getattr(lives, life)
    found = []
    calls = lives.calls(begin)
    assert len(calls) > 60, calls
    for number, fault in enumerate(faults):
        for at in range(1 + number % stride, len(calls) + 1, stride):
            place = f"{fault.name} at call {at}, {calls[at - 1]}"
            found += [f"{place}: {text}" for text in lives.complaints(begin, at, fault)]
    return found


@pytest.mark.parametrize("life", ["new", "damaged", "cut_off"])
def test_some_failing_calls_lose_nothing(lives: Lives, life: str) -> None:
    assert failures(lives, life, GATE_FAULTS, GATE_STRIDE) == []


@pytest.mark.long
@pytest.mark.parametrize("life", ["new", "damaged", "cut_off"])
def test_no_failing_call_loses_anything(
    lives: Lives, life: str, tried: Callable[..., None]
) -> None:
    assert failures(lives, life, FAULTS, 1) == []
    tried(failing_calls=len(FAULTS) * len(lives.calls(getattr(lives, life))))


def test_the_library_makes_calls_fail(commands: Commands, tmp_path: Path) -> None:
    """Without this, the tests above could pass because nothing fails."""
    (tmp_path / "names.txt").write_text(TEXT, encoding="utf-8")
    words = ["train", "--data=names.txt", *OPTIONS, f"--out={tmp_path / 'run'}"]
    fault = {"below": str(tmp_path / "run"), "kinds": "mkdir", "at": 1, "error": errno.ENOSPC}
    done = commands.run(*words, cwd=tmp_path, fault=fault)
    assert (done.code, done.err) == (
        1, f"error: cannot write {tmp_path / 'run'}: {os.strerror(errno.ENOSPC)};"
        " free some space or choose another out\n",
    )  # fmt: skip
    done = commands.run(*words, cwd=tmp_path, fault={**fault, "error": 0})
    assert done.code == -9
