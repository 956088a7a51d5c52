"""The cache: where it is, and that every command works without one."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import numpy as np
import pytest

from nanochat.data import packing
from nanochat.data.packing import pack, split_into_chunks
from nanochat.system.cache import cache_folder, writable_cache

HOME_VARIABLES = ("HOME", "XDG_CACHE_HOME")


def test_the_variable_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for given, expected in (
        (str(tmp_path / "c"), tmp_path / "c"), ("c", tmp_path / "c"), ("~/c", tmp_path / "me/c"),
    ):  # fmt: skip
        monkeypatch.setenv("NCLAB_CACHE", given)
        assert cache_folder() == expected
    assert not (tmp_path / "c").exists()  # asking for its place makes no folder


@pytest.mark.skipif(sys.platform == "darwin", reason="the XDG folders are those of Linux")
def test_without_the_variable_the_cache_is_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("NCLAB_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "nanochat"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "nanochat"


def test_without_a_home_there_is_no_cache(tmp_path, monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in HOME_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert (cache_folder(), writable_cache("numba")) == (None, None)
    assert list(tmp_path.iterdir()) == []  # and no folder named ~


def test_a_folder_that_can_be_written_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path / "a/b"))
    assert writable_cache("numba") == tmp_path / "a/b/numba"
    assert list((tmp_path / "a/b/numba").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    for bad in (tmp_path / "file", tmp_path / "file/x", Path("/dev/null/x")):
        monkeypatch.setenv("NCLAB_CACHE", str(bad))
        assert writable_cache("numba") is None
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_without_room_is_none(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path))
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert writable_cache() is None


def test_compiled_loops_are_cached_in_the_cache_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "COMPILE_ABOVE", 0)
    package = Path(packing.__file__).parent
    before = set(package.rglob("*.nb*"))
    lengths = np.array([2, 3, 1])
    packed = {}
    for name in ("cache", "file/x"):
        (tmp_path / "file").touch()
        monkeypatch.setenv("NCLAB_CACHE", str(tmp_path / name))
        packing._compiled_best_fit.cache_clear()
        try:
            packed[name] = pack(split_into_chunks(lengths, 3), 3).pairs.tolist()
        finally:
            packing._compiled_best_fit.cache_clear()
    assert packed == {"cache": [2, 3, 4, 0, 1, 5], "file/x": [2, 3, 4, 0, 1, 5]}
    assert {file.suffix for file in (tmp_path / "cache/numba").rglob("*.nb*")} == {".nbi", ".nbc"}
    assert set(package.rglob("*.nb*")) == before


def test_a_misspelt_variable_is_refused(refused, monkeypatch):
    monkeypatch.setenv("NCLAB_CASHE", "x")
    assert refused("train", "--steps=1") == (
        "environment variable NCLAB_CASHE does not name an option (did you mean 'NCLAB_CACHE'?)"
    )


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_commands_work_without_a_cache_and_without_a_home(folder, python, tiny, flags, mode):
    """A classroom: no network, no home folder, nothing that can be written but this folder."""
    environment = {k: v for k, v in os.environ.items() if k not in HOME_VARIABLES}
    environment |= {"NCLAB_CACHE": "/dev/null/x", "HOME": "/dev/null/home"}
    options = tiny("mini-gpt", mode=mode, steps=5, out="run", threads=1)
    for words in (
        ["train", *flags(**options)],
        ["sample", "run", "--prompt=an"],
        ["eval", "run", "--per-token=tokens.csv"],
    ):
        done = python("-W", "default", "-m", "nanochat", *words, env=environment, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert not any(word in done.stderr.lower() for word in ("traceback", "warn", "/dev/null"))
    assert {path.name for path in folder.iterdir()} == {"names.txt", "run", "tokens.csv"}


def test_the_plot_of_an_ablation_needs_no_cache(tmp_path, python):
    environment = {**os.environ, "NCLAB_CACHE": "/dev/null/x", "HOME": "/dev/null/home"}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        environment.pop(name, None)
    code = (
        "from pathlib import Path; from nanochat.output.ablation_plot import plot_ablation;"
        "plot_ablation(['a'], [1.0], [0.1], [[1.0, 1.1]], Path('plot.png'), 'title')"
    )
    done = python("-c", code, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
