"""Three lives of a run: a new one; a resume that replaces a damaged checkpoint; a resume after a
replacement that was killed. And what each of them must reach."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conftest import TEXT
from faults.commands import Commands, Done, final_state, has_checkpoint

__all__ = ["BEFORE", "LIVES", "NEWEST", "OPTIONS", "STEPS", "Lives"]

STEPS = 3
OPTIONS = (
    "--mode=scalar", "--preset=microgpt", "--n-embd=4", "--n-head=2", f"--steps={STEPS}",
    "--checkpoint-every=1", "--eval-every=2", "--eval-tokens=60", "--num-samples=1",
    "--max-new-tokens=5", "--keep=all", "--quiet",
)  # fmt: skip
NEWEST = f"checkpoints/step-{STEPS:06d}"
BEFORE = f"checkpoints/step-{STEPS - 1:06d}"
LIVES = ("new", "damaged", "cut_off")


class Lives:
    """The runs from which the lives begin, and the state that each must reach."""

    def __init__(
        self,
        commands: Commands,
        folder: Path,
        options: Sequence[str] = OPTIONS,
        data: str = "names.txt",  # "-": the file is standard input
    ) -> None:
        self.commands, self.folder, self.run = commands, folder, folder / "run"
        self.options, self.data = options, data
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        self.kept = folder / "kept"
        done = self.train(self.kept)
        assert done.code == 0, done
        self.state = final_state(self.kept, STEPS)

    def train(self, run: Path, **request: Any) -> Done:
        """Begin a run, or resume it where its folder has a checkpoint."""
        words = ["train", f"--data={self.data}", *self.options, f"--out={run}"]
        if has_checkpoint(run):
            words = ["train", "--resume", "--quiet", f"--out={run}"]
        elif self.data == "-":
            request["stdin"] = str(self.folder / "names.txt")
        return self.commands.run(*words, cwd=self.folder, **request)

    def begin(self, life: str) -> None:
        """Put the run folder into the state from which a life begins."""
        begins: dict[str, Callable[[], None]] = {
            "new": self._new, "damaged": self._damaged, "cut_off": self._cut_off,
        }  # fmt: skip
        begins[life]()

    def _new(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)

    def _damaged(self) -> None:
        self._new()
        shutil.copytree(self.kept, self.run)
        weights = self.run / NEWEST / "weights.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)

    def _cut_off(self) -> None:
        """As a kill leaves it between the two renames of a save that replaces a checkpoint."""
        self._new()
        shutil.copytree(self.kept, self.run)
        shutil.rmtree(self.run / NEWEST)
        step = Path(BEFORE).name
        (self.run / BEFORE).rename(self.run / f"checkpoints/.replaced-{step}")
        saving = self.run / f"checkpoints/.saving-{step}"
        saving.mkdir()
        (saving / "weights.safetensors").write_bytes(b"x")

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
