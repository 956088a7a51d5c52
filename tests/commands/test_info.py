"""`nanochat info`: what a bug report needs, as lines and as one object."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import nanochat
from nanochat import _scalar
from nanochat.commands import info as module
from nanochat.runs.counts_facts import counts_facts
from nanochat.runs.summary import summarize


def test_lines_and_object_hold_the_same_keys(cli):
    lines = cli("info").out.splitlines()
    record = json.loads(cli("info", "--json").out)
    assert [line.split(": ", 1)[0] for line in lines] == list(record)
    assert list(record) == [
        "nanochat", "python", "implementation", "packages", "system", "cpu", "cpu_features",
        "cores", "threads", "git_revision", "native_modules", "engines", "gpu",
        "cache",
    ]  # fmt: skip


def test_the_native_module_is_told_with_its_file(cli):
    record = nanochat.info()
    assert record["native_modules"] == {"nanochat._scalar": f"loaded from {_scalar.__file__}"}
    assert record["engines"]["scalar"] is True
    assert f"nanochat._scalar loaded from {_scalar.__file__}" in cli("info").out


def test_a_native_module_that_does_not_load_is_told_and_no_error(monkeypatch, cli):
    monkeypatch.setitem(sys.modules, "nanochat._scalar", None)
    monkeypatch.delattr("nanochat._scalar")
    result = cli("info")
    assert result.code == 0
    assert "nanochat._scalar not loaded: " in result.out


def test_the_gpu_is_what_the_drivers_tool_says(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    answer = subprocess.CompletedProcess([], 0, stdout="NVIDIA H100, 580.1, 81559 MiB\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    assert module._gpu() == "NVIDIA H100, 580.1, 81559 MiB"
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert module._gpu() is None


def test_a_drivers_tool_that_fails_is_told(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")

    def fail(*args, **kwargs):
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr(subprocess, "run", fail)
    assert module._gpu().startswith("nvidia-smi failed: ")


def test_info_is_silent_in_the_api(capsys):
    nanochat.info()
    assert capsys.readouterr() == ("", "")


def test_a_run_with_counts_is_told_with_order_size_and_hash(folder, tiny, cli, refused):
    options = {"ngram_order": 3, "num_samples": 0, "steps": 2}
    nanochat.train(nanochat.TrainConfig(**tiny("mini-gpt", out="run", **options)))
    (path,) = Path("run/counts").iterdir()
    arrays = load_file(path)
    facts = {
        "path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size, "order": 3, "tokens": len(arrays["stream"]) - 1,
        "entries": sum(len(arrays[name]) for name in ("nodes", "children", "followers")),
        "cutoff": None,
    }  # fmt: skip
    for words in (["info", "run"], ["runs", "show", "run"]):
        assert json.loads(cli(*words, "--json").out)["counts"] == [facts]
        out = cli(*words).out
        assert f"\ncounts: order 3, {facts['entries']:,} entries of {facts['tokens']} tokens" in out
        assert f"\ncounts SHA-256: {facts['sha256']}\n" in out
        assert "\nlong orders store the training text nearly verbatim: share the counts" in out
    path.write_bytes(b"?")
    damaged = cli("info", "run")
    assert damaged.code == 1
    assert "counts: order –, – entries of – tokens, 1 B" in damaged.out
    problem = (
        f"{path} was not written by nanochat: it must be a safetensors file, got another format"
    )
    assert damaged.err.endswith(f"error: run has 2 damaged parts: {problem}\n")
    assert refused("info", "nowhere", code=1).startswith("no run nowhere")


def table(**changes):
    return {"dtype": "U32", "shape": [1], "data_offsets": [0, 4], **changes}


@pytest.mark.parametrize("header", [
    {"stream": table(shape=["x"])}, {"stream": table(shape=["x", 10**12])},
    {"stream": table(shape=[[0], 10**12])}, {"sizes": table(data_offsets=[2**70, 2**70 + 4])},
    {"sizes": table(data_offsets=[-4, 0])}, {"stream": table(shape=[])}, [], None,
])  # fmt: skip
def test_figures_of_a_hostile_header_are_unknown_and_take_no_memory(folder, header):
    names = "sizes", "stream", "nodes", "children", "followers"
    text = json.dumps(header and {**{name: table() for name in names}, **header}).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(4)
    counts = Path("run/counts", f"ngram-{'0' * 64}.safetensors")
    weights = Path("run/checkpoints/step-000001/weights.safetensors")
    for path in (counts, weights):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (facts,) = counts_facts(Path("run"))
    assert facts["bytes"] == len(content)
    assert (facts["order"], facts["tokens"], facts["entries"]) == (None, None, None)
    assert summarize(Path("run")).params is None


def test_a_run_without_counts_has_none(trained, cli):
    assert f"\nrun: {trained.path}\ncounts: none\n" in cli("info", str(trained.path)).out
    assert json.loads(cli("info", str(trained.path), "--json").out)["counts"] == []
    assert "counts" not in cli("runs", "show", str(trained.path)).out
    assert "run" not in nanochat.info()


def test_every_part_of_a_run_is_verified(trained, folder, cli):
    shutil.copytree(trained.path, "run")
    *_, last = steps = sorted(Path("run/checkpoints").glob("step-*"))
    sound = cli("info", "run")
    parts = [*map(str, steps), "run/checkpoints/best"]
    assert sound.code == 0
    assert sound.out.splitlines()[-len(parts) :] == [f"{part}: verified" for part in parts]
    weights = bytearray((last / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (last / "weights.safetensors").write_bytes(weights)
    problem = f"{last}/weights.safetensors is damaged: its SHA-256 differs from its manifest"
    damaged = cli("info", "run")
    assert damaged.code == 1
    assert f"\n{last}: {problem}\n" in damaged.out
    assert f"\n{steps[0]}: verified\n" in damaged.out
    assert damaged.err == f"error: run has 1 damaged part: {problem}\n"
    found = json.loads(cli("info", "run", "--json").out)["parts"]
    assert {part["path"]: part["problem"] for part in found} == {
        **dict.fromkeys(parts),
        str(last): problem,
    }


def test_links_and_damaged_small_files_are_parts_too(trained, folder, cli):
    shutil.copytree(trained.path, "run")
    Path("run/loss.svg").unlink()
    Path("run/loss.svg").symlink_to("/etc/passwd")
    Path("run/result.json").write_text("[")
    Path("run/checkpoints/best").write_text("{}")
    problems = {
        "run/loss.svg": "run/loss.svg is a link, which no run folder holds",
        "run": "run: result.json is damaged",
        "run/checkpoints/best": "run/checkpoints/best is damaged: it does not name a checkpoint",
    }
    result = cli("info", "run")
    assert result.code == 1
    for path, problem in problems.items():
        assert f"\n{path}: {problem}\n" in result.out
    assert result.err == f"error: run has 3 damaged parts: {problems['run/loss.svg']}\n"


@pytest.mark.parametrize("name", ["alone", "runs/other/alone"])
def test_a_checkpoint_without_its_run_is_verified_alone(trained, folder, cli, name):
    Path("runs/other").mkdir(parents=True)
    Path("runs/other/config.toml").write_text("")  # another run, which is not looked at
    step = max(trained.path.glob("checkpoints/step-*"))
    copy = shutil.copytree(step, Path(name, step.name))
    sound = cli("info", str(copy))
    assert (sound.code, sound.out.splitlines()[-1]) == (0, f"{copy}: verified")
    (copy / "weights.safetensors").write_bytes(b"?")
    damaged = cli("info", str(copy))
    problem = f"{copy}/weights.safetensors is damaged: its manifest says"
    assert damaged.code == 1
    assert damaged.err.startswith(f"error: {copy} has 1 damaged part: {problem}")


def test_a_checkpoint_in_its_run_names_the_run(trained, cli):
    step = max(trained.path.glob("checkpoints/step-*"))
    found = json.loads(cli("info", str(step), "--json").out)
    assert found["run"] == str(trained.path.absolute())
    assert {part["problem"] for part in found["parts"]} == {None} and len(found["parts"]) > 1
