"""Whose text a run names, and which commands open it again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs.saved_checkpoints import edit, rewrite

import nanochat
from nanochat.config.option import shown
from nanochat.errors import CheckpointError
from nanochat.runs.checkpoint import load_checkpoint
from nanochat.runs.own_text import check_own_text, is_own
from nanochat.system.cache import user_key

REFUSAL = "which was not named on this machine by this user, so it is not opened"


@pytest.fixture
def step(folder, tiny, monkeypatch) -> Path:
    """The last checkpoint of a run on a text with an absolute path, with a separate cache."""
    monkeypatch.setenv("NCLAB_CACHE", str(folder / "cache"))
    data = str(folder / "names.txt")
    nanochat.train(nanochat.TrainConfig(**tiny(out="run", data=data, keep="last:1", num_samples=0)))
    return max(Path("run/checkpoints").glob("step-*"))


def score(path: Path) -> float | None:
    return nanochat.evaluate({"checkpoint": str(path)}).loss


def test_the_key_is_a_secret_that_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path / "a" / "b"))
    key = user_key()
    path = tmp_path / "a" / "b" / "key"
    assert key is not None and path.read_bytes() == key and len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert user_key() == key
    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path / "c"))
    assert user_key() not in (None, key)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path / "file"))
    assert user_key() is None


@pytest.mark.parametrize("left", [b"", b"half a key"])
def test_a_key_that_a_full_disk_has_cut_off_is_made_anew(monkeypatch, tmp_path, left):
    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path))
    (tmp_path / "key").write_bytes(left)
    key = user_key()
    assert key is not None and len(key) == 32 and (tmp_path / "key").read_bytes() == key


def test_a_whole_key_in_a_cache_that_cannot_be_written_is_used(monkeypatch, tmp_path):
    def refuse(path, flags, *mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path))
    (tmp_path / "key").write_bytes(bytes(range(32)))
    monkeypatch.setattr("nanochat.system.cache.open_plain", refuse)
    assert user_key() == bytes(range(32))


def test_processes_that_make_the_key_at_once_have_one_key(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from nanochat.system.cache import user_key; print(user_key().hex())",
    ]
    environment = {**os.environ, "NCLAB_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    keys = {process.communicate(timeout=60)[0].strip() for process in started}
    assert keys == {(tmp_path / "cache/key").read_bytes().hex()}


def test_a_run_of_this_user_is_known_wherever_it_is_moved(step, tmp_path):
    loss = score(step)
    assert is_own(load_checkpoint(step))
    shutil.move("run", "elsewhere")
    assert score(Path("elsewhere/checkpoints") / step.name) == loss
    assert nanochat.train({"resume": True, "out": "elsewhere"}).metrics["steps"] == 6


def test_another_cache_makes_the_run_foreign_until_its_text_is_named(
    step, monkeypatch, cli, refused
):
    monkeypatch.setenv("NCLAB_CACHE", str(Path("other").absolute()))
    data = str(Path("names.txt").absolute())
    found = load_checkpoint(step)
    assert not is_own(found)
    with pytest.raises(CheckpointError) as caught:
        check_own_text(found, "choose")
    assert str(caught.value) == f"{step} names the text {shown(data)}, {REFUSAL}; choose"
    assert refused("eval", str(step), code=1) == (
        f"{step} names the text {shown(data)}, {REFUSAL}; name the text to score with --data"
    )
    result = cli("train", "--resume", "--out=run", f"--data={data}", "--num-samples=0")
    assert result.code == 0
    assert (
        f"{step} is not known as a checkpoint of this user on this machine; it asks for 6 steps of"
        " 2 × 1 rows, threads 0 and 0 samples"
    ) in result.err


def test_another_text_breaks_the_seal(step):
    edit(step, "config.json", data=["/etc/passwd"])
    found = load_checkpoint(step)
    assert not is_own(found)
    with pytest.raises(CheckpointError, match="names the text /etc/passwd, which was not named"):
        check_own_text(found, "choose")


def test_a_run_of_an_earlier_version_opens_what_is_in_the_working_folder(step):
    data = json.loads((step / "data.json").read_text())
    del data["text_seal"]
    rewrite(step, "data.json", json.dumps(data).encode())
    edit(step, "config.json", data=["names.txt"])
    assert score(step) == score(step)
    os.symlink("/etc/passwd", "link")
    edit(step, "config.json", data=["link"])
    with pytest.raises(CheckpointError, match="names the text link, which was not named"):
        check_own_text(load_checkpoint(step), "choose")
    for harmless in ("names", "registry:shakespeare", "not/there.txt"):
        edit(step, "config.json", data=[harmless])
        check_own_text(load_checkpoint(step), "choose")


def test_without_a_cache_a_checkpoint_has_no_seal(folder, tiny, monkeypatch):
    monkeypatch.setenv("NCLAB_CACHE", str(folder / "names.txt"))
    nanochat.train(nanochat.TrainConfig(**tiny(out="run", num_samples=0)))
    step = max(Path("run/checkpoints").glob("step-*"))
    assert "text_seal" not in json.loads((step / "data.json").read_text())
    assert score(step) is not None
