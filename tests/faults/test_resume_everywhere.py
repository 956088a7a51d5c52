"""A run that is killed right after the save of any step and resumed ends with the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TEXT
from faults.commands import Commands, final_state, hidden_files

STEPS = 50
RUNS = {
    "program": ("--mode=scalar", "--preset=pico", "--n-embd=8", "--n-head=2", "--n-layer=1",
                "--ngram-order=3"),
    "bigram": ("--mode=scalar", "--model-kind=bigram", "--n-embd=4", "--batch-size=3", "--ema=0.9"),
}  # fmt: skip
COMMON = (
    "--data=names.txt", f"--steps={STEPS}", "--checkpoint-every=1", "--eval-every=7", "--eval-tokens=60",
    "--num-samples=1", "--max-new-tokens=5", "--keep=all", "--quiet",
)  # fmt: skip


class Whole:
    """A run that nothing disturbs, its calls, and the same run killed and resumed."""

    def __init__(self, commands: Commands, folder: Path, kind: str) -> None:
        self.commands, self.folder, self.run = commands, folder, folder / "run"
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        self.words = ["train", *COMMON, *RUNS[kind], f"--out={self.run}"]
        log = folder / "calls"
        done = self.train(fault=self.fault(0, log=str(log)))
        assert done.code == 0, done
        self.calls = log.read_text(encoding="utf-8").splitlines()
        self.steps = sorted(
            int(line.rpartition("step-")[2]) for line in self.calls
            if line.startswith("rename /checkpoints/step-")
        )  # fmt: skip
        self.state = final_state(self.run, self.steps[-1])

    def fault(self, at: int, **more: object) -> dict[str, object]:
        return {"below": str(self.run), "kinds": "all", "at": at, "error": 0, **more}

    def train(self, **request: object):
        return self.commands.run(*self.words, cwd=self.folder, **request)

    def complaint(self, step: int) -> str | None:
        """Return what is wrong after a kill at the call that follows the save of a step."""
        shutil.rmtree(self.run)
        named = self.calls.index(f"rename /checkpoints/step-{step:06d}") + 1
        synced = next(
            at for at, line in enumerate(self.calls[named:], named) if line.startswith("fsync ")
        )
        killed = self.train(fault=self.fault(synced + 2))
        if killed.code != -9:
            return f"step {step}: not killed: {killed}"
        done = self.commands.run(
            "train", "--resume", "--quiet", f"--out={self.run}", cwd=self.folder
        )
        if done.code != 0:
            return f"step {step}: {done.err[-300:]}"
        state = final_state(self.run, self.steps[-1])
        others = [name for name, value in self.state.items() if state[name] != value]
        hidden = hidden_files(self.run)
        return f"step {step}: other bits of {others}, left {hidden}" if others or hidden else None


@pytest.fixture(scope="module", params=RUNS)
def whole(
    commands: Commands, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    return Whole(commands, tmp_path_factory.mktemp(request.param), request.param)


def test_a_resume_from_some_steps_ends_with_the_same_bits(whole: Whole) -> None:
    assert [text for step in whole.steps[:-1:9] if (text := whole.complaint(step))] == []


@pytest.mark.long
def test_a_resume_from_any_step_ends_with_the_same_bits(
    whole: Whole, tried: Callable[..., None]
) -> None:
    assert [text for step in whole.steps[:-1] if (text := whole.complaint(step))] == []
    tried(resumes=len(whole.steps) - 1)
