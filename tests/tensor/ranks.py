"""Starts the processes of a group on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["LONG", "LOST", "command", "free_port", "start", "wait_for_checkpoint"]

TESTS = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    script: str,
    rank: int,
    port: int,
    arguments: Sequence[str] = (),
    cwd: Path | None = None,
    world: int = 2,
) -> subprocess.Popen[str]:
    group = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    environment = {name: str(value) for name, value in {**group, "MASTER_PORT": port}.items()}
    # An empty entry would be the current folder.
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, str(TESTS / "tensor" / script), *arguments],
        env={**os.environ, **environment, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def command(
    rank: int, port: int, folder: Path, *words: str, world: int = 2
) -> subprocess.Popen[str]:
    group = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    environment = {name: str(value) for name, value in {**group, "MASTER_PORT": port}.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "nanochat", "train", *words],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


LONG = (
    "--mode=tensor", "--data=names.txt", "--documents=line", "--model-kind=bigram", "--n-embd=4",
    "--block-size=8", "--batch-size=2", "--threads=1", "--num-samples=0", "--no-baseline",
    "--out=run", "--rank-timeout=5", "--quiet",
)  # fmt: skip
LOST = "error: rank {} lost another process of this run, whose own message says why: "


def wait_for_checkpoint(folder: Path, *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("run/checkpoints/step-*")):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
