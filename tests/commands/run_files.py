"""Resumes a run, and what two runs that are equal have in common."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import nanochat
from nanochat.config.options import TrainConfig

TIMINGS = ("steps_per_sec", "tokens_per_sec")


def resume(out, **options):
    return nanochat.train(TrainConfig(resume=True, out=out, **options))


def weights_sha256(run: Path) -> str:
    newest = max((run / "checkpoints").glob("step-*"))
    return hashlib.sha256((newest / "weights.safetensors").read_bytes()).hexdigest()


def untimed_log(run) -> list[str]:
    """The lines of metrics.jsonl without the seconds."""
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [re.sub(r',"elapsed_s":[0-9.e-]+}$', "}", line) for line in lines]


def untimed(metrics):
    return {key: value for key, value in metrics.items() if key not in TIMINGS}


def rewrite(path: Path, name: str, content: dict) -> None:
    """Replace a JSON file of a checkpoint and its entry in the manifest."""
    raw = json.dumps(content, indent=1).encode()
    (path / name).write_bytes(raw)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    (path / "manifest.json").write_bytes(json.dumps(manifest, indent=1).encode())
