"""A run that is killed at random moments, start-up and resumes included, ends with the same bits."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import TEXT
from faults.commands import final_state, has_checkpoint, hidden_files

COMMON = (
    "--data=names.txt", "--checkpoint-every=1", "--eval-every=7", "--eval-tokens=60",
    "--num-samples=1", "--max-new-tokens=5", "--quiet",
)  # fmt: skip
TAPE = ("--mode=scalar", "--numerics=exact", "--dtype=float32", "--preset=microgpt", "--n-embd=4",
        "--n-head=2", "--batch-size=2")  # fmt: skip
# kind of run → steps, its options
RUNS: dict[str, tuple[int, Sequence[str]]] = {
    "program": (40, ("--mode=scalar", "--preset=pico", "--n-embd=8", "--n-head=2", "--n-layer=1")),
    "tape": (20, TAPE),
    "tensor": (30, ("--mode=tensor", "--preset=mini", "--n-embd=16", "--n-layer=1", "--dropout=0.1",
                    "--batch-size=8", "--optimizer=muon", "--ngram-order=3")),
}  # fmt: skip
GATE_TRIALS = {"program": 6, "tape": 2, "tensor": 2}
LONG_TRIALS = {"program": 600, "tape": 250, "tensor": 150}


class Trials:
    """A run that nothing disturbs, and the same run again under kills."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.steps, options = RUNS[kind]
        self.words = ["train", *COMMON, *options, f"--steps={self.steps}"]
        self.folder = folder
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        took = []
        for name in ("first", "second"):
            began = time.monotonic()
            process = self._start(folder / name)
            _, err = process.communicate()
            assert process.returncode == 0, err
            took.append(time.monotonic() - began)
        self.seconds = min(took)
        self.state = final_state(folder / "first", self.steps)
        assert final_state(folder / "second", self.steps) == self.state

    def _start(self, out: Path) -> subprocess.Popen[str]:
        words = self.words if not has_checkpoint(out) else ["train", "--resume", "--quiet"]
        return subprocess.Popen(
            [sys.executable, "-m", "nanochat", *words, f"--out={out}"], cwd=self.folder, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def complaints(self, trial: int) -> list[str]:
        """Return what is wrong with a run of one to three kills; empty if nothing is."""
        draw = random.Random(trial)
        out = self.folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(draw.choice([1, 1, 2, 3])):
            process = self._start(out)
            time.sleep(draw.uniform(0.0, 1.02 * self.seconds))
            process.send_signal(signal.SIGKILL)
            _, err = process.communicate()
            if process.returncode == 0:
                break
            if process.returncode != -signal.SIGKILL:
                return [f"exit code {process.returncode}: {err[-600:]}"]
        process = self._start(out)
        _, err = process.communicate()
        if process.returncode != 0:
            return [f"the last start: exit code {process.returncode}: {err[-600:]}"]
        state = final_state(out, self.steps)
        found = [f"other bits of {key}" for key, value in self.state.items() if state[key] != value]
        hidden = hidden_files(out)
        return found + [f"left behind: {hidden}"] * bool(hidden)


@pytest.fixture(scope="module", params=RUNS)
def trials(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return Trials(request.param, tmp_path_factory.mktemp(request.param))


def failures(trials: Trials, numbers: range) -> dict[int, list[str]]:
    found = {number: trials.complaints(number) for number in numbers}
    return {number: complaints for number, complaints in found.items() if complaints}


def test_some_killed_runs_end_with_the_same_bits(
    trials: Trials, request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.params["trials"]
    assert failures(trials, range(GATE_TRIALS[kind])) == {}


@pytest.mark.long
def test_a_killed_run_ends_with_the_same_bits(
    trials: Trials, request: pytest.FixtureRequest, tried: Callable[..., None]
) -> None:
    kind = request.node.callspec.params["trials"]
    assert failures(trials, range(LONG_TRIALS[kind])) == {}
    tried(killed_runs=LONG_TRIALS[kind])
