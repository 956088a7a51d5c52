"""Long runs: memory, descriptors and threads stay as they are after the first tenth."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import TEXT

TINY = ("--n-embd=8", "--n-head=2", "--n-layer=1", "--num-samples=0", "--eval-tokens=60")
MOST_GROWTH = 4 << 20  # bytes between the first tenth and the end


class Usage(NamedTuple):
    memory: int  # bytes that the process alone holds
    descriptors: int
    threads: int


def usage(pid: int) -> Usage | None:
    """Return what a process uses now, or None if it has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        memory = int(status["RssAnon"].split()[0]) * 1024
        return Usage(memory, len(list((folder / "fd").iterdir())), int(status["Threads"]))
    except (OSError, KeyError):
        return None


def watch(words: list[str], folder: Path) -> list[Usage]:
    """Run a command and return what it used, ten times per second."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", *words], cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    used = []
    while process.poll() is None:
        if (now := usage(process.pid)) is not None:
            used.append(now)
        time.sleep(0.1)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return used


CASES = {
    "60,000 scalar steps": (
        ["train", "--mode=scalar", "--preset=pico", *TINY, "--steps=60000", "--out=run",
         "--eval-every=6000", "--quiet"], 60_000,
    ),
    "20,000 tensor steps": (
        ["train", "--mode=tensor", "--preset=mini", *TINY, "--steps=20000", "--threads=1",
         "--eval-every=2000", "--out=run", "--quiet"], 20_000,
    ),
    "6,000 evaluations": (
        ["train", "--mode=scalar", "--preset=pico", *TINY, "--steps=6000", "--eval-every=1",
         "--out=run", "--quiet"], 6_000,
    ),
    "10,000 samples": (["sample", "run", "--num-samples=10000", "--max-new-tokens=40"], 10_000),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_memory_descriptors_and_threads_do_not_grow(
    tmp_path: Path, name: str, tried: Callable[..., None]
) -> None:
    (tmp_path / "names.txt").write_text(TEXT * 20, encoding="utf-8")
    words, count = CASES[name]
    if words[0] == "sample":
        train = CASES["6,000 evaluations"][0]
        words_of_run = [word if word != "--steps=6000" else "--steps=20" for word in train]
        watch([*words_of_run, "--data=names.txt"], tmp_path)
    else:
        words = [*words, "--data=names.txt"]
    used = watch(words, tmp_path)
    assert len(used) >= 20, "too short to see growth"
    # A run ends with the drawing of its curve, which loads more code.
    end = len(used) - max(len(used) // 20, 2)
    early, late = used[len(used) // 10 : len(used) // 2], used[len(used) // 2 : end]
    growth = max(each.memory for each in late) - max(each.memory for each in early)
    assert growth <= MOST_GROWTH, f"{growth} bytes more in the second half"
    assert max(each.descriptors for each in late) <= max(each.descriptors for each in early)
    assert max(each.threads for each in late) <= max(each.threads for each in early)
    tried(rounds=count)
