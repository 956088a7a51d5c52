"""Two gloo processes on one machine: the losses of one process, and one step to stop after."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT
from tensor.batch_makers import make_engine, settings, small_config, windows

from nanochat.errors import ConfigError, ProcessGroupError
from nanochat.runs.checkpoint import load_checkpoint
from nanochat.tensor import distributed

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


def test_two_processes_equal_one() -> None:
    port = free_port()
    processes = [start("two_processes.py", rank, port) for rank in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    engine = make_engine(small_config(grad_clip=0.1))
    expected = []
    for seed in range(5):
        metrics = engine.step([windows(4, 8, seed=seed)], settings()).read()
        expected.append([metrics.loss, metrics.grad_norm])
    for out, _ in outputs:
        np.testing.assert_allclose(json.loads(out), expected, rtol=1e-12)


# Steps before which rank 0 and rank 1 are asked to stop; evaluations are after steps 0, 4, 8, 12.
STOPS = [
    (None, 5), (5, None), (5, 5), (5, 6), (6, 5), (2, 9), (None, 0), (0, None), (None, 3),
    (4, 3), (None, 4), (7, 8), (None, 10), (None, 11), (11, None), (None, 12), (None, None),
]  # fmt: skip


def test_a_stop_that_reaches_two_processes_at_different_steps_is_saved_once_by_rank_0(
    tmp_path: Path,
) -> None:
    corpus, port = tmp_path / "names.txt", free_port()
    corpus.write_text(TEXT)
    folders = [tmp_path / f"rank{rank}" for rank in range(2)]
    for folder in folders:
        folder.mkdir()
    processes = [
        start(
            "stop_together.py", rank, port,
            [str(corpus), json.dumps([stops[rank] for stops in STOPS])], folders[rank],
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for index, stops in enumerate(STOPS):
        messages = [json.loads(out)[index] for out, _ in outputs]
        first = min(stop for stop in (*stops, 99) if stop is not None)
        if first >= 12:  # no step is left that could carry the request
            assert messages == ["finished 12 steps"] * 2, stops
            assert (folders[0] / f"run-{index}/result.json").exists()
            continue
        step = int(re.findall(r"stopped after step (\d+);", messages[0])[0])
        assert first < step <= first + 2, (stops, messages)
        name = f"step-{step:06d}"
        assert messages == [
            f"stopped after step {step}; saved run-{index}/checkpoints/{name};"
            f" resume with: nanochat train --resume --out run-{index}",
            f"stopped after step {step}; saved {name} (by rank 0)",
        ], stops
        checkpoint = load_checkpoint(folders[0] / f"run-{index}/checkpoints/{name}")
        assert checkpoint.trainer.step == step
    assert not list(folders[1].iterdir())  # ranks above 0 write nothing
    assert not list(folders[0].glob("*/.*"))  # no lock is left


def test_two_processes_map_the_counts_that_rank_0_has_kept(tmp_path: Path) -> None:
    corpus, port = tmp_path / "names.txt", free_port()
    corpus.write_text(TEXT)
    folders = [tmp_path / f"rank{rank}" for rank in range(3)]
    for folder in folders:
        folder.mkdir()
    processes = [
        start("shared_counts.py", rank, port, [str(corpus)], folder, world)
        for folder, (rank, world) in zip(folders, ((0, 2), (1, 2), (0, 1)), strict=True)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    first, second, alone = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    kept = list((folders[0] / "run/counts").iterdir())
    assert first["mapped"] == second["mapped"] == [str(kept[0])]
    assert first["loss"] == second["loss"]
    assert not list(folders[1].iterdir())
    assert alone["mapped"] == []  # its counts are in its own memory
    untrained = [
        json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[0])["val_loss"]
        for folder in (folders[0], folders[2])
    ]
    np.testing.assert_allclose(untrained[0], untrained[1], rtol=1e-12)


def test_one_process_joins_no_group_and_sums_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank(), distributed.world(), distributed.local_rank()) == (0, 1, 0)
    distributed.init(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    tensor = torch.ones(3)
    distributed.all_reduce(tensor)
    assert torch.equal(tensor, torch.ones(3))


def test_a_request_to_stop_changes_no_bit_of_a_single_process() -> None:
    asked, other = (make_engine(small_config()) for _ in range(2))
    metrics = asked.step([windows(2, 8)], settings(stop=True)).read()
    assert metrics == other.step([windows(2, 8)], settings()).read()
    assert not asked.weights.step_sums.any()
    assert torch.equal(asked.weights.values, other.weights.values)


def test_several_processes_without_an_address_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="^MASTER_ADDR must be set where WORLD_SIZE is above 1"):
        distributed.init(torch.device("cpu"))


def test_a_group_that_cannot_be_joined_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessGroupError, match="^rank 0 cannot join 2 processes at 127.0.0.1:x: "):
        distributed.init(torch.device("cpu"))
