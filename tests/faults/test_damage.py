"""A run whose files are cut short or changed: refused with the file named, or proved harmless."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TEXT
from faults.commands import Commands, Done
from nonempty import nonempty

from nanochat.errors import CheckpointError
from nanochat.runs.checkpoint import find_checkpoint

STEPS = 2
TRAIN = (
    "--mode=scalar", "--preset=microgpt", "--n-embd=4", "--n-head=2", f"--steps={STEPS}",
    "--eval-every=1", "--eval-tokens=60", "--num-samples=1", "--max-new-tokens=5",
    "--ngram-order=2", "--keep=last:1", "--quiet",
)  # fmt: skip
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "info": ("info", "run"),
    "sample": ("sample", "run", "--num-samples=2", "--max-new-tokens=5"),
    "eval": ("eval", "run", "--data=names.txt"),
    "resume": ("train", "--resume", "--quiet", "--out=run"),
}
# What no command needs: it may be damaged, and is not looked at or is skipped with a warning.
PICTURES = {"loss.svg", "environment.json"}


class Damage(NamedTuple):
    file: str
    what: str  # for the message
    content: bytes


class Folder:
    """A run, its files, and what each command says of it."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self.commands, self.folder, self.run = commands, folder, folder / "run"
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        done = commands.run("train", "--data=names.txt", *TRAIN, "--out=run", cwd=folder)
        assert done.code == 0, done
        shutil.copytree(self.run, folder / "kept")
        self.files = {
            str(path.relative_to(self.run)): path.read_bytes()
            for path in sorted(self.run.rglob("*")) if path.is_file()
        }  # fmt: skip
        self.said = {name: self._said(name, self.run_command(name)) for name in COMMANDS}
        for name in COMMANDS:
            assert self.run_command(name).code == 0, name

    def run_command(self, name: str) -> Done:
        return self.commands.run(*COMMANDS[name], cwd=self.folder, timeout_s=20.0)

    def _said(self, name: str, done: Done) -> Any:
        """Return what a command has computed."""
        if name == "resume":
            weights = self.run / f"checkpoints/step-{STEPS:06d}/weights.safetensors"
            return weights.read_bytes()
        return [line for line in done.out.splitlines() if "per second" not in line]

    def restore(self) -> None:
        shutil.rmtree(self.run)
        shutil.copytree(self.folder / "kept", self.run)

    def complaint(self, damage: Damage, name: str) -> str | None:
        """Return what is wrong with a command's answer to a damage, or None."""
        path = self.run / damage.file
        path.write_bytes(damage.content)
        try:
            done = self.run_command(name)
            found = done.complaint()
            names = [path.name] if path.parent == self.run else [path.name, path.parent.name]
            if found is None and not any(name in done.err for name in names):
                if done.code != 0:
                    found = f"the file is not named: {done.err[-300:]}"
                elif self._said(name, done) != self.said[name]:
                    found = f"another answer without a word: {done.out[-300:]}"
        finally:
            self.restore()
        return f"{name}, {damage.file}, {damage.what}: {found}" if found else None


@pytest.fixture(scope="module")
def run(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(commands, tmp_path_factory.mktemp("damage"))


def cut(file: str, content: bytes, length: int) -> Damage:
    return Damage(file, f"cut to {length} of {len(content)} bytes", content[:length])


def flipped(file: str, content: bytes, bit: int) -> Damage:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return Damage(file, f"bit {bit % 8} of byte {bit // 8} changed", bytes(changed))


def some_damages(run: Folder, draws: int) -> Iterator[Damage]:
    draw = random.Random(0)
    for file, content in run.files.items():
        yield Damage(file, "emptied", b"")
        for _ in range(draws):
            yield cut(file, content, draw.randrange(len(content)))
            yield flipped(file, content, draw.randrange(8 * len(content)))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_file_of_a_run_may_be_damaged(run: Folder, name: str) -> None:
    complaints = [run.complaint(damage, name) for damage in some_damages(run, 1)]
    assert [text for text in complaints if text] == []


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_the_files_of_a_run_may_be_damaged_anywhere(
    run: Folder, name: str, tried: Callable[..., None]
) -> None:
    damages = list(some_damages(run, 60))
    complaints = [run.complaint(damage, name) for damage in damages]
    assert [text for text in complaints if text] == []
    tried(damages=len(damages))


@pytest.mark.long
def test_every_bit_and_every_length_of_a_checkpoint_is_verified(
    run: Folder, tried: Callable[..., None]
) -> None:
    """Without a process per damage: the function by which all commands load a checkpoint."""
    step = f"checkpoints/step-{STEPS:06d}/"
    files = [(file, content) for file, content in run.files.items() if file.startswith(step)]
    for file, content in nonempty(files):
        path = run.run / file
        damages = [cut(file, content, length) for length in range(len(content))]
        damages += [flipped(file, content, bit) for bit in range(8 * len(content))]
        for damage in nonempty(damages):
            path.write_bytes(damage.content)
            with pytest.raises(CheckpointError) as caught:
                find_checkpoint(run.run, str(STEPS))
            # A manifest whose figure of a file has changed is named with this file.
            named = [path.name, *(["its manifest"] if path.name == "manifest.json" else [])]
            assert any(name in str(caught.value) for name in named), damage
        path.write_bytes(content)
        tried(damages=len(damages))
