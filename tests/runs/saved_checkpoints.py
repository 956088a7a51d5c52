"""Checkpoints that the tests save, damage and cut off."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

from nanochat.runs import checkpoint as module
from nanochat.runs.checkpoint import TrainerState, save_checkpoint
from nanochat.system import durable
from nanochat.training.engine import EngineState

FILES = {
    "weights.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json", "data.json",
    "trainer.json", "manifest.json",
}  # fmt: skip
CONFIG = {"mode": "scalar", "lr": 0.1, "out": None, "resume": False}
TOKENIZER = {"kind": "char", "characters": "aé\u2028😀"}
DATA = {"val_source": "val", "split_sha256": "00ff", "start": [0]}


def trainer(step=123, **changes):
    values = {
        "step": step, "last_losses": [2.5, 0.1 + 0.2, 1e-300], "tokens": 10**12,
        "elapsed_s": 1.25, "metrics_length": 77,
    }  # fmt: skip
    return TrainerState(**{**values, **changes})


def state(dtype=np.float32, seed=0):
    generator = np.random.default_rng(seed)
    weights = {name: generator.normal(size=(3, 4)).astype(dtype) for name in ("wte", "layer0.wq")}
    return EngineState(
        weights=weights, optimizer={"m.wte": np.zeros((3, 4), dtype), "step": np.array([7.0])}
    )


def save(directory: Path, step=123, **changes) -> Path:
    directory.parent.mkdir(parents=True, exist_ok=True)  # of a run, which has its folder
    values = {
        "config": CONFIG, "tokenizer": TOKENIZER, "data": DATA, "trainer": trainer(step),
        "state": state(seed=step),
    }  # fmt: skip
    return save_checkpoint(directory, **{**values, **changes})


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert left[name].shape == right[name].shape
        assert left[name].tobytes() == right[name].tobytes()


def damage(path: Path) -> str:
    """Cut the weights short; the reason that must be given."""
    file = path / "weights.safetensors"
    size = file.stat().st_size
    os.truncate(file, 5)
    return f"{file} is damaged: its manifest says {size} bytes, got 5"


WATCHED = (
    (os, "fsync"), (os, "rename"), (module, "write_durably"), (module, "sync_folder"),
    (durable, "write_durably"), (durable, "sync_folder"),  # of replace_durably
)  # fmt: skip


class CutOff:
    """Counts the calls that a save is made of, and raises `error` at number `at`."""

    def __init__(self, monkeypatch, error=None, at=None):
        self.calls = 0
        self.error, self.at = error, at
        for owner, name in WATCHED:
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, function):
        def counted(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            return function(*args, **kwargs)

        return counted


def no_space():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
