"""Every system call of a run's life fails once, or is its last: nothing that was saved is lost.

Three lives: a new run; a resume that replaces a damaged checkpoint; a resume after a replacement
that was killed. After a fault, the command ends with one line of error or with the result of a run
without a fault, every checkpoint is whole, and the next start reaches the same bits.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TEXT
from faults.commands import Commands, final_state, hidden_files, whole_checkpoints
from faults.lives import LIVES, NEWEST, OPTIONS, STEPS, Lives


class Fault(NamedTuple):
    name: str
    error: int  # 0: the process is killed
    persists: bool = False


FAULTS = (
    Fault("EIO", errno.EIO), Fault("killed", 0), Fault("EIO from then on", errno.EIO, True),
    Fault("ENOSPC from then on", errno.ENOSPC, True), Fault("EDQUOT", errno.EDQUOT),
    Fault("EINTR", errno.EINTR),
)  # fmt: skip
GATE_FAULTS, GATE_STRIDE = FAULTS[:2], 17  # of the calls of a life, the others by --long


def armed(lives: Lives, at: int, error: int, persists: bool, **more: Any) -> Mapping[str, Any]:
    fault = {"below": str(lives.run), "kinds": "all", "at": at, "error": error}
    return {**fault, "persists": persists, **more}


def calls_of(lives: Lives, life: str) -> list[str]:
    """Return the calls of a life without a fault, in order: kind and path."""
    lives.begin(life)
    log = lives.folder / "calls"
    done = lives.train(lives.run, fault=armed(lives, 0, 0, False, log=str(log)))
    assert done.code == 0, done
    assert final_state(lives.run, STEPS) == lives.state
    return log.read_text(encoding="utf-8").splitlines()


def complaints(lives: Lives, life: str, at: int, fault: Fault) -> list[str]:
    """Return what is wrong after the fault at the nth call of a life; empty if nothing is."""
    lives.begin(life)
    acknowledged = set(whole_checkpoints(lives.run)[0])
    done = lives.train(lives.run, fault=armed(lives, at, fault.error, fault.persists))
    found = []
    if fault.error and (complaint := done.complaint()):
        found.append(complaint)
    if done.code == 0:
        found += lives.differences(done.err)
    whole, others = whole_checkpoints(lives.run)
    if life != "new":
        others = [name for name in others if name != Path(NEWEST).name]
    if others:
        found.append(f"checkpoints that are not whole: {others}")
    # One that was replaced keeps its content until its name has moved.
    lost = acknowledged - set(whole)
    if lost and not any((lives.run / "checkpoints").glob(".replaced-*")):
        found.append(f"lost: {lost}")
    again = lives.train(lives.run)
    if again.code != 0:
        return [*found, f"the next start: {again.code} {again.err[-300:]!r}"]
    found += [f"after the next start: {text}" for text in lives.differences("")]
    if hidden := hidden_files(lives.run):
        found.append(f"left behind: {hidden}")
    return found


@pytest.fixture(scope="module")
def lives(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    return Lives(commands, tmp_path_factory.mktemp("lives"))


def failures(lives: Lives, life: str, faults: tuple[Fault, ...], stride: int) -> list[str]:
    found = []
    calls = calls_of(lives, life)
    assert len(calls) > 60, calls
    for number, fault in enumerate(faults):
        for at in range(1 + number % stride, len(calls) + 1, stride):
            place = f"{fault.name} at call {at}, {calls[at - 1]}"
            found += [f"{place}: {text}" for text in complaints(lives, life, at, fault)]
    return found


@pytest.mark.parametrize("life", LIVES)
def test_some_failing_calls_lose_nothing(lives: Lives, life: str) -> None:
    assert failures(lives, life, GATE_FAULTS, GATE_STRIDE) == []


@pytest.mark.long
@pytest.mark.parametrize("life", LIVES)
def test_no_failing_call_loses_anything(
    lives: Lives, life: str, tried: Callable[..., None]
) -> None:
    assert failures(lives, life, FAULTS, 1) == []
    tried(failing_calls=len(FAULTS) * len(calls_of(lives, life)))


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
