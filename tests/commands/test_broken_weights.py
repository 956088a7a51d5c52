"""Checkpoints whose manifest is right and whose arrays are not: NaN, infinity, integers, overflow."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

ENGINES = pytest.mark.parametrize("mode", ["scalar", "tensor"])


@pytest.fixture
def run(trained_gpt, folder):
    """A copy of a finished run, whose checkpoints are of steps 20 and 40, in `folder`."""
    shutil.copytree(trained_gpt.path, "run")
    return Path("run")


def rewrite(step: Path, name: str, change, *, file: str = "weights") -> str:
    """Change one array of a checkpoint and record the file's hash, as a careful editor would."""
    path = step / f"{file}.safetensors"
    arrays = {key: array.copy() for key, array in load(path.read_bytes()).items()}
    arrays[name] = change(arrays[name])
    content = save(arrays)
    path.write_bytes(content)
    manifest = json.loads((step / "manifest.json").read_bytes())
    manifest["files"][path.name] = {
        "sha256": hashlib.sha256(content).hexdigest(), "size": len(content),
    }  # fmt: skip
    (step / "manifest.json").write_bytes(json.dumps(manifest, indent=1).encode())
    return str(step)


def put(value):
    def change(array):
        array[1, 2] = value
        return array

    return change


def huge(array):
    return np.full_like(array, np.finfo(array.dtype).max)


CASES = [
    ("weights", "wte", put(np.nan), "weight wte of {} must be finite, got nan at [1, 2]"),
    ("weights", "layer0.attn_wq", put(-np.inf),
     "weight layer0.attn_wq of {} must be finite, got -inf at [1, 2]"),
    ("optimizer", "m.wte", put(np.inf),
     "optimizer state m.wte of {} must be finite, got inf at [1, 2]"),
    ("weights", "wte", lambda a: a.astype(np.int32),
     "{} was not written by nanochat: weights.safetensors must hold arrays of F64, F32, I64, U32, got"
     " 'I32' of 'wte'"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "name", "change", "words"), CASES, ids=[c[3] for c in CASES])
@ENGINES
def test_every_command_that_reads_the_checkpoint_names_the_array(
    file, name, change, words, mode, run, refused
):
    step = rewrite(run / "checkpoints/step-000040", name, change, file=file)
    message = words.format(step)
    assert refused("sample", "run", "--checkpoint=40", f"--mode={mode}", code=1) == message
    assert refused("eval", "run", "--checkpoint=40", f"--mode={mode}", code=1) == message
    init = ["--init-from=run@40", "--data=names.txt", f"--mode={mode}", "--quiet"]
    assert refused("train", *init, code=1) == message
    assert not Path("runs").exists()


def test_a_resume_skips_such_a_checkpoint_and_says_so(run, cli):
    step = rewrite(run / "checkpoints/step-000040", "wte", put(np.nan))
    result = cli("train", "--resume", "--out=run", "--num-samples=0")
    assert result.code == 0
    assert f"weight wte of {step} must be finite, got nan at [1, 2]" in result.err
    weights = load(Path(step, "weights.safetensors").read_bytes())
    assert np.isfinite(weights["wte"]).all()


@ENGINES
def test_weights_that_overflow_are_named_instead_of_a_score_or_text(mode, run, cli, refused):
    step = rewrite(run / "checkpoints/step-000040", "layer0.attn_wq", huge)
    result = cli("sample", "run", "--checkpoint=40", f"--mode={mode}", "--quiet")
    assert result.code == 1
    assert result.err.startswith("error: logits of row 0 ")
    assert result.err.endswith(f": the weights of {step} overflow; use another checkpoint\n")
    data = json.loads(Path(step, "config.json").read_text())["data"][0]
    assert refused("eval", "run", "--checkpoint=40", f"--mode={mode}", "--quiet", code=1) == (
        f"the loss of {data}:val is nan: the weights of {step} overflow; use another checkpoint"
    )
