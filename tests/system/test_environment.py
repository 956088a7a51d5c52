"""What a run and a bug report say of the machine, compared with what the machine says."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from nanochat.system.environment import cpu_features, cpu_model, describe_environment, version

KEYS = [
    "nanochat", "python", "implementation", "packages", "system", "cpu", "cpu_features", "cores",
    "threads", "git_revision",
]  # fmt: skip


def test_versions_are_those_installed():
    record = describe_environment(0)
    assert list(record) == KEYS
    assert record["nanochat"] == metadata.version("nanochat-lab")
    assert record["python"] == platform.python_version()
    for package in ("numpy", "safetensors", "psutil"):
        assert record["packages"][package] == metadata.version(package)
    assert version("no-such-distribution") is None


def test_threads_are_those_asked_for_or_the_cores_that_may_be_used(monkeypatch):
    assert describe_environment(3)["threads"] == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert describe_environment(0)["threads"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert describe_environment(0)["threads"] == os.cpu_count()


CPUINFO = "processor : 0\nmodel name\t: Fast Chip 9000\nflags\t\t: fpu avx2 fma avx512f sse\n"


def test_the_processor_is_read_from_the_system(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda _: CPUINFO)
    assert cpu_model() == "Fast Chip 9000"
    assert cpu_features() == ["avx2", "fma", "avx512f"]


def test_a_system_that_does_not_list_its_processor_is_no_error(monkeypatch):
    def missing(_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert cpu_model() == (platform.processor() or platform.machine())
    assert cpu_features() == []


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.CalledProcessError(1, "git")])
def test_a_revision_that_cannot_be_had_is_left_out(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert describe_environment(0)["git_revision"] is None
