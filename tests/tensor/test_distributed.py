"""Two gloo processes on one machine: the losses of one process, and one step to stop after."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TEXT
from tensor.batch_makers import make_engine, settings, small_config, windows
from tensor.ranks import LONG, LOST, command, free_port, start, wait_for_checkpoint

from nanochat.commands.resolve import same_batch
from nanochat.commands.train import _check_same_checkpoint as check_same_checkpoint
from nanochat.errors import ConfigError, ProcessGroupError
from nanochat.runs.checkpoint import load_checkpoint
from nanochat.tensor import distributed


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
        found = json.loads(out)
        np.testing.assert_allclose(found["metrics"], expected, rtol=1e-12)
        assert found["told"] == ["ä\udcff\n0", "0", ""]


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


# ------------------------------------------------------------------------- the command in two ranks


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text(TEXT)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_or_hung_process_ends_the_other_in_one_line_within_the_timeout(
    texts: Path, number: signal.Signals, victim: int
) -> None:
    port = free_port()
    words = (*LONG, "--steps=10000000", "--eval-every=10000000", "--checkpoint-every=20")
    ranks = [command(rank, port, texts, *words) for rank in range(2)]
    try:
        wait_for_checkpoint(texts, *ranks)
        ranks[victim].send_signal(number)
        out, err = ranks[1 - victim].communicate(timeout=60)  # it was 30 minutes
    finally:
        for process in ranks:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
    assert (ranks[1 - victim].returncode, out) == (1, "")
    assert re.fullmatch(re.escape(LOST.format(1 - victim)) + r"[^;\n]+\n", err), err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_alone_gives_up_after_the_timeout(texts: Path, rank: int) -> None:
    port = free_port()
    process = command(rank, port, texts, *LONG[:-2], "--rank-timeout=1", "--quiet", "--steps=2")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    pattern = rf"error: rank {rank} cannot join 2 processes at 127.0.0.1:{port}: [^\n]*\n"
    assert re.fullmatch(pattern, err), err


def test_a_rank_0_that_accepts_the_connection_and_hangs_ends_the_wait(texts: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        process = command(1, port, texts, *LONG[:-2], "--rank-timeout=1", "--quiet", "--steps=2")
        _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (
        1, f"error: rank 1 cannot join 2 processes at 127.0.0.1:{port}: rank 0 has not answered"
        " within 1 s\n",
    )  # fmt: skip


def test_a_mistake_is_told_by_rank_0_alone(texts: Path) -> None:
    port = free_port()
    ranks = [command(rank, port, texts, *LONG, "--lr=-1") for rank in range(2)]
    outputs = [process.communicate(timeout=100) for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2]
    assert outputs == [("", "error: lr must be finite and > 0, got -1\n"), ("", "")]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_a_resume_with_another_number_of_processes_keeps_the_batches(
    texts: Path, before: int, after: int
) -> None:
    """Compared with one process that takes all rows of a step."""
    schedule = ("--lr-schedule=constant", "--eval-every=0", "--dtype=float64")

    def losses(out: str, *parts: tuple[int, tuple[str, ...]]) -> list[float]:
        for world, words in parts:
            port = free_port()
            ranks = [
                command(rank, port, texts, *words, f"--out={out}", world=world)
                for rank in range(world)
            ]
            outputs = [process.communicate(timeout=200) for process in ranks]
            assert [process.returncode for process in ranks] == [0] * world, outputs
        lines = (texts / out / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [row["loss"] for row in rows if row["kind"] == "step"]

    plain = tuple(word for word in LONG if not word.startswith(("--out", "--batch-size")))
    whole = losses("whole", (1, (*plain, *schedule, "--steps=8", f"--batch-size={2 * before}")))
    cut = losses(
        "cut",
        (before, (*plain, *schedule, "--steps=4", "--batch-size=2")),
        (after, ("--resume", "--steps=8", "--quiet")),
    )
    np.testing.assert_allclose(cut, whole, rtol=1e-12)
    saved = load_checkpoint(texts / "cut/checkpoints/step-000008")
    assert saved.trainer.processes == after
    rows = saved.config["batch_size"] * saved.config["grad_accum"] * after
    assert rows == 2 * before


@pytest.mark.parametrize(
    ("size", "accumulated", "before", "now", "expected"),
    [
        (8, 1, 1, 2, {"batch_size": 4, "grad_accum": 1}),
        (8, 1, 2, 1, {"batch_size": 8, "grad_accum": 2}),
        (8, 4, 1, 2, {"batch_size": 8, "grad_accum": 2}),
        (6, 1, 2, 3, {"batch_size": 4, "grad_accum": 1}),
        (1, 3, 2, 6, {"batch_size": 1, "grad_accum": 1}),
        (7, 2, 2, 2, {}),
        (7, 2, None, 5, {}),
    ],
)
def test_other_processes_take_the_same_rows_per_step(
    size: int, accumulated: int, before: int | None, now: int, expected: dict[str, int]
) -> None:
    saved = {"batch_size": size, "grad_accum": accumulated}
    assert same_batch(saved, before, now) == expected


def test_rows_that_do_not_divide_are_refused_with_the_numbers_that_do() -> None:
    with pytest.raises(ConfigError) as caught:
        same_batch({"batch_size": 3, "grad_accum": 2}, 2, 5)
    assert str(caught.value) == (
        "--resume keeps the 12 rows per step of 2 processes, which 5 cannot share equally; use one"
        " of 1, 2, 3, 4, 6, 12 processes"
    )


def test_processes_that_find_different_checkpoints_do_not_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = SimpleNamespace(
        trainer=SimpleNamespace(step=4),
        weights_sha256="ab" * 32,
        path="run/checkpoints/step-000004",
    )
    monkeypatch.setattr("nanochat.system.processes.world", lambda: 2)
    monkeypatch.setattr("nanochat.system.processes.rank", lambda: 1)
    same, other = "step 4, weights abababababab…", "step 6, weights 0123456789ab…"
    monkeypatch.setattr(distributed, "from_rank_0", lambda own: same)
    check_same_checkpoint(found)
    monkeypatch.setattr(distributed, "from_rank_0", lambda own: other)
    with pytest.raises(ProcessGroupError) as caught:
        check_same_checkpoint(found)
    assert str(caught.value) == (
        "rank 1 must resume from the checkpoint of rank 0 (step 6, weights 0123456789ab…), got"
        " run/checkpoints/step-000004 (step 4, weights abababababab…); start the processes"
        " again, on the same files"
    )
