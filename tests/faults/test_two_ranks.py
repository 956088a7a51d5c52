"""Two processes of one run, of which one is killed, hangs or is asked to stop at a random moment.

The other one ends with one line within `--rank-timeout` and a grace period, no process is left, and
the run can be resumed, with the bits of a run that nothing disturbed.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import TEXT
from faults.commands import final_state, has_checkpoint, hidden_files, whole_checkpoints
from tensor.ranks import command, free_port

STEPS, TIMEOUT_S, GRACE_S = 600, 5, 15
WORDS = (
    "--mode=tensor", "--data=names.txt", "--documents=line", "--model-kind=bigram", "--n-embd=4",
    "--block-size=8", "--batch-size=2", "--threads=1", "--num-samples=0", "--no-baseline",
    f"--steps={STEPS}", "--eval-every=250", "--checkpoint-every=40", "--keep=last:2", "--out=run",
    "--quiet",
)  # fmt: skip
RESUME = ("--resume", "--quiet", "--out=run")


class Kind(NamedTuple):
    number: signal.Signals
    victim: int
    other_too: bool  # after a while


KINDS = {
    "rank 0 killed": Kind(signal.SIGKILL, 0, False),
    "rank 1 killed": Kind(signal.SIGKILL, 1, False),
    "rank 0 hung": Kind(signal.SIGSTOP, 0, False),
    "rank 1 hung": Kind(signal.SIGSTOP, 1, False),
    "rank 0 asked to stop, then rank 1": Kind(signal.SIGTERM, 0, True),
    "rank 1 asked to stop, then rank 0": Kind(signal.SIGTERM, 1, True),
}


class Ranks:
    """A run of two processes that nothing disturbs, and the same run disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        began = time.monotonic()
        assert self.end(self.start(), timeout_s=120) == [(0, ""), (0, "")]
        self.seconds = time.monotonic() - began
        self.state = final_state(self.run, STEPS)

    def start(self, *more: str) -> list[subprocess.Popen[str]]:
        words = RESUME if has_checkpoint(self.run) else WORDS
        port = free_port()
        return [command(rank, port, self.folder, *words, *more) for rank in range(2)]

    def end(
        self, ranks: Sequence[subprocess.Popen[str]], timeout_s: float
    ) -> list[tuple[int | None, str]]:
        """Return exit code and stderr of each; None if it did not end in time, and is killed."""
        found: list[tuple[int | None, str]] = []
        deadline = time.monotonic() + timeout_s
        for process in ranks:
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
                code: int | None = process.returncode
            except subprocess.TimeoutExpired:
                code = None
                process.kill()
            _, err = process.communicate()
            found.append((code, err))
        return found

    def complaints(self, kind: Kind, moment: float, seed: int) -> list[str]:
        """Return what is wrong after a signal at a moment, a share of the run's time."""
        shutil.rmtree(self.run, ignore_errors=True)
        ranks = self.start(f"--rank-timeout={TIMEOUT_S}")
        time.sleep(moment * self.seconds)
        victim, other = ranks[kind.victim], ranks[1 - kind.victim]
        if victim.poll() is None:
            victim.send_signal(kind.number)
        if kind.other_too:
            time.sleep(random.Random(seed).uniform(0, 0.3))
            if other.poll() is None:
                other.send_signal(kind.number)
        ended = self.end([other], timeout_s=TIMEOUT_S + GRACE_S + self.seconds)
        if kind.number == signal.SIGSTOP:
            victim.kill()
        ended += self.end([victim], timeout_s=TIMEOUT_S + GRACE_S)
        found = self.wrong_ends(kind, ended)
        if self.run.is_dir() and (others := whole_checkpoints(self.run)[1]):
            found.append(f"not whole: {others}")
        again = self.end(self.start(), timeout_s=120)
        if again != [(0, ""), (0, "")]:
            return [*found, f"the next start: {again}"]
        state = final_state(self.run, STEPS)
        found += [f"other bits of {key}" for key in self.state if state[key] != self.state[key]]
        if hidden := hidden_files(self.run):
            found.append(f"left behind: {hidden}")
        return found

    def wrong_ends(self, kind: Kind, ended: Sequence[tuple[int | None, str]]) -> list[str]:
        found = []
        for (code, err), is_victim in zip(ended, (False, True), strict=True):
            name = "the signalled process" if is_victim else "the other process"
            lines = err.splitlines()
            if code is None:
                found.append(f"{name} did not end")
            elif "Traceback" in err or len(lines) > 1:
                found.append(f"{name}: exit code {code}, {err[-600:]!r}")
            elif code == 1 and not any(text for _, text in ended):
                found.append(f"{name} ended, and neither process said a word")
            elif code not in (0, 1, -kind.number, -signal.SIGKILL, 128 + kind.number):
                found.append(f"{name}: exit code {code}, {err[-600:]!r}")
        return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(
    "name", ["rank 1 killed", "rank 0 hung", "rank 1 asked to stop, then rank 0"]
)
def test_a_process_that_ends_or_hangs_ends_the_other_and_the_run_goes_on(
    ranks: Ranks, name: str
) -> None:
    assert ranks.complaints(KINDS[name], random.Random(name).uniform(0.3, 0.9), 0) == []


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_a_process_that_ends_or_hangs_at_any_moment_ends_the_other_and_the_run_goes_on(
    ranks: Ranks, name: str, tried: Callable[..., None]
) -> None:
    draw, found = random.Random(name), {}
    for seed in range(15):
        moment = draw.uniform(0, 1)
        if texts := ranks.complaints(KINDS[name], moment, seed):
            found[moment] = texts
    assert found == {}
    tried(signalled_pairs=15)
