"""The dataset of a run: validation documents that are also trained on are counted and reported."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config.options import TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.data.splits import count_shared, split_documents
from nanochat.data.style import style_documents

WAY_OUT = " so the validation loss is lower than on new text; remove copies with --deduplicate"


def dataset(path, **options):
    return load_dataset(TrainConfig(mode="scalar", data=str(path), **options))


@given(*[st.lists(st.sampled_from(["", "a", "b", "c", "d", "e"]), max_size=12)] * 2)
def test_shared_documents_are_counted_with_their_repeats(train, val):
    trained = Counter(train)
    expected = sum(1 for document in val if document and trained[document])
    assert count_shared(train, val) == expected


def test_validation_documents_that_are_trained_on_are_reported_with_their_count(tmp_path):
    lines = [f"line {i // 2}" for i in range(40)]  # each line twice
    path = tmp_path / "twice.txt"
    path.write_text("\n".join(lines))
    split = split_documents(lines, 0.5, 1337)
    shared = sum(line in split.train for line in split.val)
    assert 0 < shared < 20
    found = dataset(path, documents="line", val_fraction=0.5)
    assert found.warning == (
        f"{shared} of 20 validation documents also occur in the training part," + WAY_OUT
    )
    assert found.split_sha256 == split.sha256  # the split itself is unchanged


def test_distinct_documents_give_no_warning(tmp_path):
    path = tmp_path / "once.txt"
    path.write_text("\n".join(f"line {i}" for i in range(40)))
    assert dataset(path, documents="line").warning is None
    assert dataset("names").warning is None


def test_empty_files_give_no_warning(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("" if number % 2 else f"text {number}")
    assert dataset(tmp_path, val_fraction=0.5).warning is None


def test_links_put_no_validation_document_into_training(tmp_path):
    for number in range(20):
        (tmp_path / f"d{number}").write_text(f"document number {number}")
        os.symlink(f"d{number}", tmp_path / f"d{number}.u8")
    found = dataset(tmp_path)
    assert (found.train.count, found.val.count, found.warning) == (18, 2, None)


def test_style_documents_count_as_training(tmp_path):
    path = tmp_path / "style.txt"
    path.write_text("\n".join(style_documents()))
    assert dataset(path, documents="line").warning is None
    found = dataset(path, documents="line", style="futuristic")
    assert found.warning == "1 of 1 validation documents also occur in the training part," + WAY_OUT


@pytest.mark.parametrize("text", ["x", "\n\nx"])
def test_a_text_too_short_to_split_gives_the_warning_of_the_split_alone(tmp_path, text):
    path = tmp_path / "short.txt"
    path.write_text(text)
    found = dataset(path, documents="line")
    assert found.val_source == "train"
    assert found.warning == split_documents(["x"], 0.1, 1337).warning
