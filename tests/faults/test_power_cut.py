"""The power fails after any system call: what was acknowledged is there, and nothing half-written
is trusted.

No power is cut. The system calls of a run are traced, and a model of the disk (disk.py) says what
may be left after each of them. Each such folder is written, verified and resumed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from faults.commands import Commands, has_checkpoint, hidden_files, whole_checkpoints
from faults.disk import State, Trace, digest, read_state, write_state
from faults.lives import NEWEST, OPTIONS, Lives


class Case(NamedTuple):
    life: str
    options: Sequence[str] = ()  # other than those of the lives
    data: str = "names.txt"


CASES: Mapping[str, Case] = {
    "new": Case("new"),
    "damaged": Case("damaged"),
    "cut_off": Case("cut_off"),
    "pruned": Case("new", ("--keep=last:1",)),
    "counts": Case("new", ("--ngram-order=2", "--keep=last:1")),
    "standard input": Case("new", (), "-"),
}
GATE_STATES = 4  # of each case and of each kind
RUN = ["run"]  # what lies in the traced folder


class Replay:
    """A life whose calls were traced."""

    def __init__(self, commands: Commands, folder: Path, case: Case) -> None:
        self.life = case.life
        given = {word.partition("=")[0] for word in case.options}
        options = [word for word in OPTIONS if word.partition("=")[0] not in given]
        self.lives = Lives(commands, folder, (*options, *case.options), case.data)
        self.lives.begin(case.life)
        before = read_state(folder, RUN)
        log = folder.parent / f"{folder.name}-trace"
        done = self.lives.train(self.lives.run, trace=(str(folder), str(log)))
        assert done.code == 0, done
        self.trace = Trace(before, log.read_text(encoding="utf-8").splitlines())
        # Otherwise the library would miss calls.
        assert self.trace.end == read_state(folder, RUN)

    def states(self) -> Iterator[tuple[int, str, State]]:
        """Yield all different states: after how many changes, what is lost, and the state."""
        known: set[bytes] = set()
        for cut in range(len(self.trace.changes) + 1):
            for what, state in self.trace.states(cut):
                if (key := digest(state)) not in known:
                    known.add(key)
                    yield cut, what, state

    def complaints(self, cut: int, state: State) -> list[str]:
        """Return what is wrong with a state of the disk; empty if nothing is."""
        run = self.lives.run
        write_state(state, self.lives.folder, RUN)
        found = []
        whole, others = whole_checkpoints(run)
        if self.life != "new":
            others = [name for name in others if name != Path(NEWEST).name]
        acknowledged = self.acknowledged(cut)
        if acknowledged and max(whole, default="") < acknowledged:
            found.append(f"{acknowledged} was acknowledged, whole are {whole}")
        if others:
            found.append(f"not whole: {others}")
        folder = self.lives.folder
        if self.life == "new" and whole:
            verified = self.lives.commands.run("info", str(run), cwd=folder)
            if verified.code != 0:
                found.append(f"info: {verified.err[-300:]}")
        could_resume = has_checkpoint(run)
        again = self.lives.train(run)
        if again.code != 0:
            kept = self.lives.data == "-" and not could_resume
            if again.complaint() or not (kept and "has a copy of its text" in again.err):
                found.append(f"the next start: {again.code} {again.err[-300:]!r}")
            return found
        found += self.lives.differences("")
        if hidden := hidden_files(run):
            found.append(f"left behind: {hidden}")
        return found

    def acknowledged(self, cut: int) -> str:
        """Return the newest step whose save had ended; empty if none had."""
        names = self.trace.certain_names(
            cut, lambda path: re.search(r"/checkpoints/step-\d+$", path) is not None
        )
        return max((Path(name).name for name in names), default="")


@pytest.fixture(scope="module", params=CASES)
def replay(
    commands: Commands, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Replay:
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    return Replay(commands, folder, CASES[request.param])


def failures(replay: Replay, states: Sequence[tuple[int, str, State]]) -> list[str]:
    found = []
    for cut, what, state in states:
        found += [f"cut {cut}, {what}: {text}" for text in replay.complaints(cut, state)]
    return found


def test_after_some_power_cuts_all_that_was_acknowledged_is_there(replay: Replay) -> None:
    draw, states = random.Random(0), list(replay.states())
    worst = [each for each in states if each[1] == "all that was not synced is lost"]
    chosen = [*worst[-GATE_STATES:], *draw.sample(states, GATE_STATES)]
    assert failures(replay, chosen) == []


@pytest.mark.long
def test_after_any_power_cut_all_that_was_acknowledged_is_there(
    replay: Replay, tried: Callable[..., None]
) -> None:
    states = list(replay.states())
    assert failures(replay, states) == []
    tried(system_calls=len(replay.trace.changes), states_of_the_disk=len(states))


def test_a_finished_run_needs_no_call_that_was_not_synced(replay: Replay) -> None:
    end = len(replay.trace.changes)
    lost = [state for what, state in replay.trace.states(end) if what.endswith("is lost")]
    assert lost
    for state in lost:
        files = {path for path in replay.trace.end if not path.endswith(".lock")}
        assert files - set(state) == set()
