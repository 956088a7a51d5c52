"""Checkpoints that the tests save, damage and cut off."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from nanochat.config.options import TrainConfig
from nanochat.runs import checkpoint as module
from nanochat.runs.checkpoint import TrainerState, save_checkpoint
from nanochat.system import durable
from nanochat.training.engine import EngineState

FILES = {
    "weights.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json", "data.json",
    "trainer.json", "manifest.json",
}  # fmt: skip
# Of a run whose last step is beyond every step that the tests save.
CONFIG = json.loads(
    json.dumps(
        TrainConfig(mode="scalar", model_kind="bigram", n_embd=4, lr=0.1, steps=10**9).to_dict()
    )
)
TOKENIZER = {"kind": "char", "characters": "aé\u2028😀"}
DATA = {
    "val_source": "val", "split_sha256": "00ff" * 16, "start": [0], "train_documents": 3,
    "train_tokens": 30, "val_documents": 1, "val_tokens": 4,
}  # fmt: skip
NAMES, SHAPE = ("wte", "lm_head"), (5, 4)  # of the weights of CONFIG with TOKENIZER


def trainer(step=123, **changes):
    values = {
        "step": step, "last_losses": [2.5, 0.1 + 0.2, 1e-300], "tokens": 10**12,
        "elapsed_s": 1.25, "metrics_length": 77,
    }  # fmt: skip
    return TrainerState(**{**values, **changes})


def config(dtype=np.float64):
    return {**CONFIG, "dtype": np.dtype(dtype).name}


def state(dtype=np.float64, seed=0):
    generator = np.random.default_rng(seed)
    weights = {name: generator.normal(size=SHAPE).astype(dtype) for name in NAMES}
    moments = {f"{moment}.{name}": np.ones(SHAPE, dtype) for moment in "mv" for name in NAMES}
    return EngineState(weights=weights, optimizer={**moments, "step": np.array([0.0])})


def save(directory: Path, step=123, **changes) -> Path:
    directory.parent.mkdir(parents=True, exist_ok=True)  # of a run, which has its folder
    values = {
        "config": config(), "tokenizer": TOKENIZER, "data": DATA, "trainer": trainer(step),
        "state": state(seed=step),
    }  # fmt: skip
    return save_checkpoint(directory, **{**values, **changes})


def rewrite(path: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint and its entry in the manifest, as a careful editor would."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["files"][name] = {
        "sha256": hashlib.sha256(content).hexdigest(), "size": len(content),
    }  # fmt: skip
    (path / "manifest.json").write_bytes(json.dumps(manifest, indent=1).encode())


def edit(path: Path, name: str, **changes) -> None:
    """Change keys of a JSON file of a checkpoint and its entry in the manifest."""
    record = json.loads((path / name).read_bytes())
    rewrite(path, name, json.dumps({**record, **changes}, indent=1).encode())


def copy_as(path: Path, step: int) -> Path:
    """Copy a checkpoint as that of another step of a longer run."""
    copy = path.with_name(f"step-{step:06d}")
    shutil.copytree(path, copy)
    edit(copy, "trainer.json", step=step, best_step=0, interval_steps=0)
    edit(copy, "config.json", steps=10**6)
    return copy


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
