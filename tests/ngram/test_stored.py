"""Saved counts load byte for byte, and a damaged file is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.texts import documents_of

from nanochat.errors import CheckpointError, KernelError
from nanochat.ngram.kneser_ney import Cutoff, KneserNey
from nanochat.ngram.mixing import FOLDS
from nanochat.ngram.stored import load_counts, save_counts

VOCAB = 9


def text(seed: int = 0, count: int = 4) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCAB, random.integers(0, 120)).tolist() for _ in range(count)]


def counted(order: int = 5, count: int = 4) -> KneserNey:
    return KneserNey.count(documents_of(text(count=count)), order, VOCAB)


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("order", [1, 2, 5, 16])
def test_what_was_saved_is_loaded(tmp_path: Path, order: int, count: int) -> None:
    model, train = counted(order, count), np.linspace(0.1, 1, 7, dtype=np.float32)
    loaded, again, parts = load_counts(tmp_path, save_counts(model, train, tmp_path, 7))
    assert parts == 7
    assert (loaded.order, loaded.vocab_size, loaded.bytes) == (order, VOCAB, model.bytes)
    assert again.tobytes() == train.tobytes()
    for name, array in model.arrays().items():
        assert array.tobytes() == loaded.arrays()[name].tobytes()
    scored = documents_of(text(seed=1))
    losses = model.token_losses_by_order(scored)
    assert loaded.token_losses_by_order(scored).tobytes() == losses.tobytes()
    contexts = [[], [0], [0, 3], [3, 4, 5, 6], text()[0][:9]]
    assert loaded.distributions(contexts).tobytes() == model.distributions(contexts).tobytes()


@pytest.mark.parametrize("order", [1, 2, 5])
def test_counts_with_a_cutoff_are_loaded_with_it(tmp_path: Path, order: int) -> None:
    model = KneserNey.count(documents_of(text()), order, VOCAB, cutoff=Cutoff(3, 2))
    train = np.zeros(0, dtype=np.float32)
    loaded, *_ = load_counts(tmp_path, save_counts(model, train, tmp_path))
    assert loaded.cutoff == Cutoff(3, 2)
    assert (loaded.targets, loaded.bytes) == (model.targets, model.bytes)
    assert loaded.targets == documents_of(text()).pairs
    for name, array in model.arrays().items():
        assert array.tobytes() == loaded.arrays()[name].tobytes()
    scored = documents_of(text(seed=1))
    losses = model.token_losses_by_order(scored)
    assert loaded.token_losses_by_order(scored).tobytes() == losses.tobytes()
    assert [loaded.matched(c) for c in ([], [0], [9, 3])] == [
        model.matched(c) for c in ([], [0], [9, 3])
    ]


def test_a_format_of_a_later_version_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("nanochat.ngram.stored._WITH_CUTOFF", 3)
    model = KneserNey.count(documents_of(text()), 4, VOCAB, cutoff=Cutoff(3, 2))
    sha256 = save_counts(model, np.zeros(0, dtype=np.float32), tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"must have the format 1 or 2, got 3; load it with"):
        load_counts(tmp_path, sha256)


def test_damaged_counts_with_a_cutoff_are_refused() -> None:
    model = KneserNey.count(documents_of(text()), 4, VOCAB, cutoff=Cutoff(3, 2))
    arrays = model.arrays()
    for name, wrong in (
        ("cut", np.array([-1, 3, 2])),
        ("counts_of_counts", arrays["counts_of_counts"] - 10**6),
        ("counts_of_counts", arrays["counts_of_counts"][:2]),
        ("dropped", np.concatenate([arrays["dropped"]] * 9)),
    ):
        with pytest.raises(KernelError, match=r"^(targets|the counts are|counts_of_c|dropped_si)"):
            KneserNey.open(4, VOCAB, {**arrays, name: wrong})


def test_a_file_is_named_by_its_content_and_another_library_reads_it(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model = counted()
    sha256 = save_counts(model, np.ones(3, dtype=np.float32), tmp_path)
    path = tmp_path / f"ngram-{sha256}.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    arrays = load_file(path)
    assert arrays.pop("train").tolist() == [1, 1, 1]
    assert arrays.pop("sizes").tolist() == [5, VOCAB, FOLDS]
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: array.tobytes() for name, array in model.arrays().items()
    }
    assert save_counts(model, np.ones(3, dtype=np.float32), tmp_path) == sha256
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_and_a_damaged_file_are_refused_by_name(tmp_path: Path) -> None:
    sha256 = save_counts(counted(), np.ones(3, dtype=np.float32), tmp_path)
    path = tmp_path / f"ngram-{sha256}.safetensors"
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/ngram-0000.safetensors must hold the"):
        load_counts(tmp_path, "0000")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path} is damaged: its SHA-256 is [0-9a-f]{{12}}"):
        load_counts(tmp_path, sha256)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"^{path} must hold the counts of the model, got: "):
        load_counts(tmp_path, sha256)


@pytest.mark.parametrize("content", [b"x", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", b"\0" * 64])
def test_another_file_of_the_right_name_is_refused(tmp_path: Path, content: bytes) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    path = tmp_path / f"ngram-{sha256}.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path} was not written by nanochat: "):
        load_counts(tmp_path, sha256)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_content_of_the_arrays_leads_a_lookup_out_of_them(data: st.DataObject) -> None:
    arrays = counted().arrays()
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(["stream", "nodes", "children", "followers"]))
        flat = arrays[name].reshape(-1)
        place = data.draw(st.integers(0, flat.size - 1))
        flat[place] = data.draw(st.sampled_from([0, 1, 2, 7, 2**31, 2**31 + 5, 2**32 - 1]))
    try:
        model = KneserNey.open(5, VOCAB, arrays)
    except KernelError as error:
        assert str(error).startswith("the counts are damaged: ")
        return
    losses = model.token_losses_by_order(documents_of(text(seed=1)))
    assert losses.shape[0] == 5
    assert model.distributions([[3, 4, 5, 6]]).shape == (1, VOCAB)


def test_a_context_without_followers_is_refused() -> None:
    """Counts that grow would take the place of an n-gram from a context that has none."""
    arrays = counted().arrays()
    moved = arrays["nodes"].copy()
    moved[1, 1] = 0  # the lists of the root's followers begin and end at 0
    with pytest.raises(KernelError, match="^the counts are damaged: a node$"):
        KneserNey.open(5, VOCAB, {**arrays, "nodes": moved})


@pytest.mark.parametrize("discount", [0.0, -1.0, 1.5, np.nan, np.inf])
def test_a_discount_that_is_none_is_refused(discount: float) -> None:
    arrays = counted().arrays()
    arrays["discounts"][0, 0, 0] = discount
    with pytest.raises(KernelError, match="^the counts are damaged: a discount$"):
        KneserNey.open(5, VOCAB, arrays)


HEADERS: list[tuple[dict[str, Any], str]] = [
    ({"stream": []}, "it must describe each array by data_offsets, dtype, shape, got others of 'stream'"),
    ({"stream": {"dtype": []}}, "it must hold arrays of F64, F32, I64, U32, got [] of 'stream'"),
    ({"stream": {"dtype": "F32"}}, "stream must be uint32 (n, 1), got float32"),
    ({"stream": {"shape": "x"}}, "it must give the shape of 'stream', got 'x'"),
    ({"stream": {"data_offsets": "x"}}, "it must give the place of 'stream', got 'x'"),
    ({"train": {"shape": [1, 3]}}, "train must be float32 (n), got float32 (1, 3)"),
    ({"evil": {"dtype": "U32", "shape": [0], "data_offsets": [0, 0]}},
     "it must not have the array evil"),
    ({"stream": None}, "it must describe each array by data_offsets, dtype, shape, got others of"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), HEADERS)
def test_a_header_that_no_run_writes_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """As of a file that another person made, whose name is right for its content."""
    sha256 = save_counts(counted(), np.ones(3, dtype=np.float32), tmp_path)
    content = (tmp_path / f"ngram-{sha256}.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name, change in changes.items():
        is_part = isinstance(change, dict) and name in header
        header[name] = {**header[name], **change} if is_part else change
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    changed = len(text).to_bytes(8, "little") + text + content[8 + length :]
    path = tmp_path / f"ngram-{hashlib.sha256(changed).hexdigest()}.safetensors"
    path.write_bytes(changed)
    with pytest.raises(CheckpointError) as caught:
        load_counts(tmp_path, path.stem.removeprefix("ngram-"))
    assert str(caught.value).startswith(f"{path} was not written by nanochat: {message}")


@pytest.mark.parametrize("value", [-0.5, 1.5, np.nan, np.inf])
def test_probabilities_that_are_none_are_refused(tmp_path: Path, value: float) -> None:
    sha256 = save_counts(counted(), np.full(3, value, dtype=np.float32), tmp_path)
    with pytest.raises(CheckpointError, match="was not written by nanochat: train must hold prob"):
        load_counts(tmp_path, sha256)


def test_counts_behind_a_link_are_refused(tmp_path: Path) -> None:
    sha256 = save_counts(counted(), np.ones(3, dtype=np.float32), tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(CheckpointError, match="must be a folder, got a link$"):
        load_counts(tmp_path / "link", sha256)
    path = tmp_path / "real" / f"ngram-{sha256}.safetensors"
    path.rename(tmp_path / "file")
    path.symlink_to(tmp_path / "file")
    with pytest.raises(CheckpointError, match="it must be a regular file, got a link$"):
        load_counts(tmp_path / "real", sha256)
