"""Two gloo processes on one machine have the losses of one process with the same batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensor.batch_makers import make_engine, settings, small_config, windows

from nanochat.tensor import distributed

TESTS = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(rank: int, port: int) -> subprocess.Popen[str]:
    group = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    environment = {name: str(value) for name, value in {**group, "MASTER_PORT": port}.items()}
    # An empty entry would be the current folder.
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, str(TESTS / "tensor" / "two_processes.py")],
        env={**os.environ, **environment, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_equal_one() -> None:
    port = free_port()
    processes = [start(rank, port) for rank in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    engine = make_engine(small_config(grad_clip=0.1))
    expected = []
    for seed in range(5):
        metrics = engine.step([windows(4, 8, seed=seed)], settings()).read()
        expected.append([metrics.loss, metrics.grad_norm])
    for out, _ in outputs:
        np.testing.assert_allclose(json.loads(out), expected, rtol=1e-12)


def test_one_process_joins_no_group_and_sums_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank(), distributed.world(), distributed.local_rank()) == (0, 1, 0)
    distributed.init(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    tensor = torch.ones(3)
    distributed.all_reduce(tensor)
    assert torch.equal(tensor, torch.ones(3))
