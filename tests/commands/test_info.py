"""`nanochat info`: what a bug report needs, as lines and as one object."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from safetensors.numpy import load_file

import nanochat
from nanochat import _scalar
from nanochat.commands import info as module


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
    assert "counts: order –, – entries of – tokens, 1 B" in cli("info", "run").out
    assert refused("info", "nowhere", code=1).startswith("no run nowhere")


def test_a_run_without_counts_has_none(trained, cli):
    assert cli("info", str(trained.path)).out.endswith(f"run: {trained.path}\ncounts: none\n")
    assert json.loads(cli("info", str(trained.path), "--json").out)["counts"] == []
    assert "counts" not in cli("runs", "show", str(trained.path)).out
    assert "run" not in nanochat.info()
