"""Out of memory anywhere in a command: one line, and what was saved stays whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TEXT
from faults.commands import Commands, whole_checkpoints

TRAIN = (
    "train", "--data=names.txt", "--mode=scalar", "--preset=pico", "--steps=4", "--eval-every=2",
    "--checkpoint-every=1", "--num-samples=1", "--max-new-tokens=4", "--keep=all", "--quiet",
    "--threads=1",
)  # fmt: skip
COMMANDS = {
    "train": (*TRAIN, "--out=new"),
    "resume": ("train", "--resume", "--quiet", "--out=run"),
    "sample": ("sample", "run", "--num-samples=2"),
    "eval": ("eval", "run", "--data=names.txt"),
}
STEP, MOST = 1 << 20, 256 << 20  # bytes of addresses beyond those of a new process


class Folder:
    def __init__(self, commands: Commands, folder: Path) -> None:
        self.commands, self.folder = commands, folder
        (folder / "names.txt").write_text(TEXT * 200, encoding="utf-8")
        run, log = folder / "run", folder / "calls"
        fault = {"below": str(run), "kinds": "all", "at": 0, "error": 0}
        done = commands.run(*TRAIN, f"--out={run}", cwd=folder, fault={**fault, "log": str(log)})
        assert done.code == 0, done
        # The run that is resumed was killed when it began to save its third step.
        third = log.read_text().splitlines().index("mkdir /checkpoints/.saving-step-000003")
        shutil.rmtree(run)
        done = commands.run(*TRAIN, f"--out={run}", cwd=folder, fault={**fault, "at": third + 1})
        assert done.code == -9, done
        shutil.copytree(run, folder / "kept")

    def complaints(self, name: str, stride: int) -> tuple[list[str], int]:
        """Return what is wrong under limits that grow until the command succeeds, and how many
        limits there were."""
        found, tries = [], 0
        for beyond in range(0, MOST, stride * STEP):
            shutil.rmtree(self.folder / "new", ignore_errors=True)
            shutil.rmtree(self.folder / "run")
            shutil.copytree(self.folder / "kept", self.folder / "run")
            limit = self.commands.address_space() + beyond
            done = self.commands.run(*COMMANDS[name], cwd=self.folder, memory=limit)
            tries += 1
            if complaint := done.complaint():
                found.append(f"{beyond >> 20} MB: {complaint}")
            run = self.folder / ("new" if name == "train" else "run")
            whole, others = whole_checkpoints(run)
            if others or (name == "resume" and len(whole) < 3):
                found.append(f"{beyond >> 20} MB: checkpoints {whole} and {others}")
            if done.code == 0:
                return found, tries
        return [*found, f"no success with {MOST >> 20} MB"], tries


@pytest.fixture(scope="module")
def folder(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(commands, tmp_path_factory.mktemp("memory"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_memory_ends_with_one_line(folder: Folder, name: str) -> None:
    found, tries = folder.complaints(name, 4)
    assert found == []
    assert tries > 1, "the first limit was enough"


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_with_one_line_under_any_limit_of_memory(
    folder: Folder, name: str, tried: Callable[..., None]
) -> None:
    found, tries = folder.complaints(name, 1)
    assert found == []
    tried(limits=tries)
