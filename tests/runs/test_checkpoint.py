"""Checkpoints: exact round trips, and every kind of damage."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import re

import numpy as np
import pytest
from nonempty import nonempty
from runs.saved_checkpoints import (
    DATA,
    FILES,
    NAMES,
    TOKENIZER,
    config,
    names,
    same_bits,
    save,
    state,
    trainer,
)

from nanochat.config.options import PRESETS, TrainConfig
from nanochat.errors import CheckpointError
from nanochat.runs import checkpoint as module
from nanochat.runs.checkpoint import load_checkpoint, resolve_checkpoint
from nanochat.runs.schema import ADDED

# -------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_and_optimizer_come_back_bit_for_bit(tmp_path, dtype):
    saved = state(dtype)
    tiny, largest = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    saved.weights["wte"].flat[:4] = [-largest, -0.0, largest, tiny]
    loaded = load_checkpoint(save(tmp_path, state=saved, config=config(dtype))).state
    same_bits(loaded.weights, saved.weights)
    same_bits(loaded.optimizer, saved.optimizer)


def test_everything_else_comes_back_equal(tmp_path):
    path = save(tmp_path)
    loaded = load_checkpoint(path)
    assert path == loaded.path == tmp_path / "step-000123"
    assert (loaded.config, loaded.tokenizer, loaded.data) == (config(), TOKENIZER, DATA)
    assert loaded.trainer == trainer()


def test_views_are_saved_by_value_not_by_memory(tmp_path):
    whole = np.arange(80.0).reshape(10, 8)
    saved = state()
    saved.weights["wte"] = whole[::2, 1:5]
    saved.weights["lm_head"] = whole[:4, :5].T
    saved.optimizer["m.wte"] = whole[:5, :4].astype(">f8")
    loaded = load_checkpoint(save(tmp_path, state=saved)).state
    assert all(np.array_equal(loaded.weights[name], saved.weights[name]) for name in NAMES)
    assert np.array_equal(loaded.optimizer["m.wte"], saved.optimizer["m.wte"])


def test_loaded_arrays_can_be_written_to(tmp_path):
    for array in nonempty(load_checkpoint(save(tmp_path)).state.weights.values()):
        before = array.copy()
        array += 1.0
        assert (array == before + 1.0).all()


def test_the_folder_holds_these_files_and_a_manifest_of_their_hashes(tmp_path):
    path = save(tmp_path / "new" / "checkpoints")
    assert set(names(path)) == FILES
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("nanochat checkpoint", 1)
    assert set(manifest["files"]) == FILES - {"manifest.json"}
    for name, entry in manifest["files"].items():
        content = (path / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_the_same_state_makes_the_same_bytes(tmp_path):
    first, second = save(tmp_path / "a"), save(tmp_path / "b")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("step", "name"), [(0, "step-000000"), (999_999, "step-999999"), (10**9, "step-1000000000")]
)
def test_folders_are_named_by_step(tmp_path, step, name):
    assert save(tmp_path, step).name == name


# ------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_one_flipped_bit_anywhere_is_found(tmp_path, name):
    file = save(tmp_path) / name
    content = file.read_bytes()
    for position in {0, len(content) // 2, len(content) - 1}:
        damaged = bytearray(content)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(file.parent)
        assert str(caught.value) == f"{file} is damaged: its SHA-256 differs from its manifest"
    file.write_bytes(content)
    load_checkpoint(file.parent)


def test_every_flipped_bit_of_the_manifest_is_found(tmp_path):
    file = save(tmp_path) / "manifest.json"
    content, unseen = file.read_bytes(), []
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            file.write_bytes(damaged)
            try:
                load_checkpoint(file.parent)
            except CheckpointError as error:
                if re.search(r"manifest|damaged", str(error)):
                    continue
            unseen.append((position, bit))
    assert not unseen


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_truncated_file_is_found_by_its_size(tmp_path, name):
    file = save(tmp_path) / name
    size = file.stat().st_size
    os.truncate(file, size - 1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(caught.value) == (
        f"{file} is damaged: its manifest says {size} bytes, got {size - 1}"
    )


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_missing_file_is_named(tmp_path, name):
    file = save(tmp_path) / name
    file.unlink()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(caught.value) == f"{file} is missing"


def test_a_missing_manifest_is_named(tmp_path):
    path = save(tmp_path)
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path}/manifest.json is missing; {path} is not a complete checkpoint folder"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}'])
def test_a_manifest_that_is_none_is_damaged(tmp_path, content):
    path = save(tmp_path)
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path}/manifest.json is damaged: it is not a checkpoint manifest"
    )


def test_a_manifest_that_was_edited_is_damaged(tmp_path):
    file = save(tmp_path) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(caught.value) == f"{file} is damaged: it differs from what nanochat wrote"


def test_a_version_of_the_future_is_refused_by_number(tmp_path):
    file = save(tmp_path) / "manifest.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file.parent)
    assert str(caught.value) == (
        f"{file} must have format 'nanochat checkpoint' version 1, got 'nanochat checkpoint'"
        " version 2; use the nanochat that saved it"
    )


def test_sound_files_with_other_contents_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_pack", lambda arrays: b"not safetensors")
    path = save(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path} was not written by nanochat: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = save(tmp_path)

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("nanochat.runs.reading.read_plain", refuse)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == f"cannot read {path}/manifest.json: Permission denied"


def test_too_little_memory_names_the_checkpoint_and_its_size(tmp_path, monkeypatch):
    path = save(tmp_path)

    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr("nanochat.runs.reading.np.empty", refuse)
    size = sum(file.stat().st_size for file in path.iterdir())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == f"{path} does not fit in memory; its files have {size:,} bytes"


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.bin", "model.safetensors"])
def test_a_file_is_refused_unread(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(file, tmp_path)
    assert str(caught.value) == (
        f"{file} is not a nanochat checkpoint folder; name the folder of a run (pickle files are never read)"
    )
    assert names(tmp_path) == [name]


def test_a_pickle_under_a_checkpoints_name_is_refused_unread(tmp_path):
    path = save(tmp_path)
    for name in FILES - {"manifest.json"}:
        (path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_an_option_that_a_saved_config_lacks_has_the_value_of_before_not_of_the_preset(
    tmp_path, monkeypatch
):
    earlier = config()
    of_a_preset = {"output_rmsnorm": True}
    # No preset may set portable, which changes it; bpe_pattern has no effect on characters.
    assert ADDED.keys() - of_a_preset == {"portable", "bpe_pattern"}
    for name, value in nonempty(of_a_preset.items()):
        monkeypatch.setitem(PRESETS["bigram"], name, value)
        assert getattr(TrainConfig(preset="bigram"), name) == value != ADDED[name]
    for name in nonempty(ADDED):
        del earlier[name]
    loaded = load_checkpoint(save(tmp_path, config=earlier))
    assert loaded.config == {**earlier, **ADDED}
    for name, value in ADDED.items():
        assert getattr(loaded.options, name) == value


def test_a_checkpoint_that_still_has_the_former_empty_field_is_read(tmp_path, monkeypatch):
    fields = {**dataclasses.asdict(trainer()), "extra": {}}
    monkeypatch.setattr(module, "asdict", lambda _: fields)
    path = save(tmp_path)
    assert json.loads((path / "trainer.json").read_text()) == {
        **fields,
        "share": {"scale": 1.0, "offset": 0.0},
    }
    assert load_checkpoint(path).trainer == trainer()
