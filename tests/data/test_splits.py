"""The split: the documents held out, the fallback for short texts, and the hash."""

from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.splits import split_documents
from nanochat.errors import CorpusError
from nanochat.philox import Stream, permutation

fractions = st.floats(0.001, 0.99)
seeds = st.integers(0, 2**32 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def held_out(n: int, fraction: float) -> int:
    wanted = math.floor(n * fraction + 0.5)
    return 1 if wanted < 1 else n - 1 if wanted > n - 1 else wanted


@given(st.lists(texts, min_size=2, max_size=30), fractions, seeds)
def test_many_documents_hold_out_the_tail_of_a_seeded_shuffle(documents, fraction, seed):
    split = split_documents(documents, fraction, seed)
    order = permutation(seed, Stream.SPLIT, 0, len(documents)).tolist()
    n_val = held_out(len(documents), fraction)
    assert [*split.train, *split.val] == [documents[i] for i in order]
    assert len(split.val) == n_val
    assert (split.val_source, split.warning) == ("val", None)


@given(st.text("abc\n é🚀", min_size=2, max_size=50), fractions, seeds)
def test_one_document_holds_out_its_tail_in_characters(text, fraction, seed):
    split = split_documents([text], fraction, seed)
    n_val = held_out(len(text), fraction)
    assert split.train == [text[: len(text) - n_val]]
    assert split.val == [text[len(text) - n_val :]]
    assert split.val_source == "val"


@pytest.mark.parametrize(
    ("n", "fraction", "n_val"),
    [(10, 0.1, 1), (10, 0.15, 2), (10, 0.04, 1), (2, 0.99, 1), (1000, 0.99, 990), (3, 0.99, 2)],
)
def test_held_out_count_is_rounded_and_clamped(n, fraction, n_val):
    assert len(split_documents([str(i) for i in range(n)], fraction, 0).val) == n_val
    assert len(split_documents(["x" * n], fraction, 0).val[0]) == n_val


@pytest.mark.parametrize("documents", [["one"], ["a", "b", "c"]])
def test_fraction_zero_holds_out_nothing(documents):
    split = split_documents(documents, 0.0, 1337)
    assert sorted(split.train) == documents
    assert (list(split.val), split.val_source, split.warning) == ([], "none", None)


def test_one_character_validates_on_the_training_part_and_says_so():
    split = split_documents(["x"], 0.1, 1337)
    assert (split.train, split.val, split.val_source) == (["x"], ["x"], "train")
    assert split.warning == (
        "the corpus has 1 character in 1 document, too little for a validation part;"
        " validation uses the training part"
    )


def test_documents_of_which_one_has_text_fall_back_too():
    split = split_documents(["", "ab", ""], 0.5, 1337)
    assert sorted(split.train) == sorted(split.val) == ["", "", "ab"]
    assert split.val_source == "train"
    assert split.warning is not None
    assert "2 characters in 3 documents" in split.warning


def test_two_characters_are_enough():
    split = split_documents(["xy"], 0.1, 1337)
    assert (split.train, split.val, split.val_source) == (["x"], ["y"], "val")


@pytest.mark.parametrize("documents", [[], [""], ["", ""]])
def test_no_text_is_refused(documents):
    with pytest.raises(CorpusError) as caught:
        split_documents(documents, 0.1, 1337)
    assert str(caught.value) == "dataset must contain at least one token pair"


def test_hash_is_over_length_prefixed_parts():
    split = split_documents(["é", "ab", "c"], 0.4, 5)
    raw = b""
    for part in (split.train, split.val):
        raw += len(part).to_bytes(8, "little")
        for document in part:
            raw += len(document.encode()).to_bytes(8, "little") + document.encode()
    assert split.sha256 == hashlib.sha256(raw).hexdigest()


def test_hash_tells_apart_what_concatenation_would_not():
    splits = [
        split_documents(documents, fraction, seed=0)
        for documents in (["abcd"], ["ab", "cd"], ["abc", "d"], ["a", "bcd"])
        for fraction in (0.0, 0.25, 0.5)
    ]
    hashes = {split.sha256 for split in splits}
    assert len(hashes) == len({(tuple(split.train), tuple(split.val)) for split in splits}) == 9


@given(st.lists(texts, min_size=3, max_size=10, unique=True), seeds)
def test_split_is_a_function_of_its_arguments(documents, seed):
    assert split_documents(documents, 0.3, seed) == split_documents(tuple(documents), 0.3, seed)


def test_seeds_differ():
    documents = [str(i) for i in range(100)]
    splits = {split_documents(documents, 0.1, seed).sha256 for seed in range(20)}
    assert len(splits) == 20
