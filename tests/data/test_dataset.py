"""The dataset of a run: validation documents that are also trained on are counted and reported."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config.options import TrainConfig
from nanochat.data import dataset as module
from nanochat.data import texts
from nanochat.data.dataset import load_dataset, read_text
from nanochat.data.splits import count_shared, split_documents
from nanochat.data.style import style_documents
from nanochat.data.tokenizer import CharTokenizer
from nanochat.errors import CorpusError

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


@given(
    st.lists(st.sampled_from(["a", "b", " b", "b ", "é", "long line", " ", ""]), min_size=1),
    st.sampled_from(["\n", "\r\n"]),
)
def test_deduplication_keeps_the_first_of_equal_lines(tmp_path_factory, lines, line_break):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_text(line_break.join([*lines, "last"]), newline="")
    kept = list(dict.fromkeys(line for line in [*lines, "last"] if line.strip()))
    found = dataset(path, documents="line", deduplicate=True, tokenizer="byte", val_fraction=0.0)
    split = np.split(found.train.tokens, found.train.offsets[1:-1])
    assert sorted(found.tokenizer.decode(tokens) for tokens in split) == sorted(kept)
    removed = sum(bool(line.strip()) for line in lines) + 1 - len(kept)
    noun = "duplicate" if removed == 1 else "duplicates"
    assert found.notes == (f"{path}: {removed} exact {noun} removed",)


@pytest.mark.parametrize(
    ("count", "fraction", "said"),
    [
        (3, 0.1, "1 of them, drawn by the seed, validates"),
        (19, 0.1, "2 of them, drawn by the seed, validate"),
        (20, 0.1, "every tenth, drawn by the seed, validates"),
        (12, 0.3, "30 % of them, drawn by the seed, validate"),
    ],
)
def test_the_choice_of_validation_is_said_as_it_is(tmp_path, count, fraction, said):
    for number in range(count):
        (tmp_path / f"{number}.txt").write_text(f"Running text, number {number}.\n" * 3)
    found = dataset(tmp_path, val_fraction=fraction)
    assert found.notes == (f"{tmp_path}: {count} documents (running text); {said}",)


def test_names_with_line_breaks_stay_on_one_line(tmp_path):
    path = tmp_path / "two\nlines\x1b.txt"
    path.write_text("Running text.\n" * 9)
    assert dataset(path).notes == (
        f"{tmp_path}/two\\nlines\\x1b.txt: 1 document (running text); its last tenth validates",
    )


# --------------------------------------------------------------------- memory of large texts

CHARACTERS = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))  # more than 8 bits can number


def wide_text(lines):
    """Return lines of mostly ASCII with 300 other characters."""
    return "".join(
        f"{CHARACTERS[i // 20 % 300] if i % 20 == 0 else 'x'} line {i * 7919 % 100_003} of this text, which goes on and on and on {i}\n"
        for i in range(lines)
    )


@pytest.mark.parametrize("documents", ["file", "line"])
@pytest.mark.parametrize("val_fraction", [0.0, 0.1])
@pytest.mark.parametrize("style", ["classic", "futuristic"])
def test_a_text_that_is_given_up_has_the_same_tokens(
    tmp_path, monkeypatch, documents, val_fraction, style
):
    path = tmp_path / "a.txt"
    path.write_text(wide_text(6000))
    options = {"documents": documents, "val_fraction": val_fraction, "style": style}
    kept = dataset(path, **options)
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(texts, "CHUNK", 1000)
    given_up = dataset(path, **options)
    assert given_up.train.stream.dtype == np.uint16
    for part in ("train", "val"):
        found, expected = getattr(given_up, part), getattr(kept, part)
        np.testing.assert_array_equal(found.stream, expected.stream)
        np.testing.assert_array_equal(found.offsets, expected.offsets)
    assert given_up.describe() == kept.describe()
    assert given_up.warning == kept.warning


def test_a_text_that_was_given_up_is_read_again_unless_it_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(wide_text(6000))
    config = TrainConfig(mode="scalar", data=str(path))
    monkeypatch.setattr(module, "LARGE", 0)
    text = read_text(config)
    first = load_dataset(config, text=text)
    assert text.kept is None
    second = load_dataset(config, text=text)
    np.testing.assert_array_equal(first.train.stream, second.train.stream)
    path.write_text(wide_text(6001))
    with pytest.raises(CorpusError) as caught:
        load_dataset(config, text=text)
    assert str(caught.value) == (
        f"{path} changed since it was read; run the command again when it is complete"
    )


@pytest.mark.parametrize(("documents", "most"), [("file", 2.1), ("line", 2.4)])
def test_tokens_of_two_bytes_take_less_than_three_times_the_size_of_the_text(
    tmp_path, monkeypatch, documents, most
):
    path = tmp_path / "a.txt"
    path.write_text(wide_text(20_000).replace("goes on", "goes on and on" * 8))
    config = TrainConfig(mode="scalar", data=str(path), documents=documents, val_fraction=0.01)
    text = read_text(config)
    train = text.split.train.characters()
    text.give_up()  # and read again below, where its memory is traced
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(texts, "CHUNK", 1 << 16)
    written, samples = 0, []

    def encoded(tokenizer, chunk):
        nonlocal written
        points, ids = encode(tokenizer, chunk)
        if text.kept is None:  # validation has been encoded
            # Memory of tokens that are not written yet is reserved, but not used.
            samples.append(tracemalloc.get_traced_memory()[0] - 2 * (train - written))
            written += len(ids)
        return points, ids

    encode = CharTokenizer._encoded
    monkeypatch.setattr(CharTokenizer, "_encoded", encoded)
    tracemalloc.start()
    try:
        found = load_dataset(config, text=text)
    finally:
        tracemalloc.stop()
    assert (written, found.train.token_count) == (train, train)
    assert len(samples) > 20
    assert max(samples) <= most * path.stat().st_size + (1 << 21)  # arrays of a chunk


def test_more_different_characters_than_any_writing_has_are_refused(tmp_path, monkeypatch):
    """Each one needs a row of the embedding: gigabytes, and a minute on the scalar engine."""
    monkeypatch.setattr(module, "MOST_CHARACTERS", 5)
    path = tmp_path / "a.txt"
    path.write_text("abcde" * 9)
    assert load_dataset(TrainConfig(data=path)).tokenizer.vocab_size == 6
    path.write_text("abcdef" * 9)
    with pytest.raises(CorpusError) as caught:
        load_dataset(TrainConfig(data=path))
    assert str(caught.value) == (
        f"{path} must have at most 5 different characters for tokenizer char, got 6; use"
        " --tokenizer byte"
    )
    assert load_dataset(TrainConfig(data=path, tokenizer="byte")).tokenizer.vocab_size == 257


def test_memory_that_runs_out_while_a_text_is_tokenized_names_the_text(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("abc")

    def no_memory(*words):
        raise MemoryError

    monkeypatch.setattr(module, "encode_documents", no_memory)
    with pytest.raises(CorpusError, match=f"^{path} must fit in memory, and memory ran out"):
        load_dataset(TrainConfig(data=path))
