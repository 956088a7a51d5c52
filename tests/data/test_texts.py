"""Many texts in one buffer: every view of them equals a list of `str`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data import texts as module
from nanochat.data.texts import Texts, last_chunk, take_buffer

unicode_texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=12)


@given(unicode_texts, st.randoms(use_true_random=False))
def test_texts_in_any_order_equal_the_list_of_them(documents, random):
    order = list(range(len(documents)))
    random.shuffle(order)
    found = Texts.of(documents).take(np.array(order, np.int64))
    expected = [documents[i] for i in order]
    assert list(found) == expected
    assert found == expected
    assert [found[i] for i in range(len(found))] == expected
    assert list(found[1:3]) == expected[1:3]
    assert found.characters() == sum(map(len, expected))
    assert found.character_lengths().tolist() == [len(text) for text in expected]
    assert found.lengths.tolist() == [len(text.encode()) for text in expected]
    assert found.has_text() == any(expected)


@pytest.mark.parametrize("size", [1, 3, 4, 7, 1000])
@given(unicode_texts)
def test_chunks_are_all_bytes_in_order_and_never_cut_a_character(size, documents):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", max(size, 4))
        found = Texts.of(documents)
        chunks = [bytes(chunk) for chunk in found.chunks()]
        lengths = found.character_lengths().tolist()
    assert "".join(chunk.decode() for chunk in chunks) == "".join(documents)
    assert lengths == [len(text) for text in documents]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.data())
def test_a_cut_is_between_two_characters(text, data):
    place = data.draw(st.integers(0, len(text)))
    first, rest = Texts.of([text]).cut(place)
    assert (list(first), list(rest)) == ([text[:place]], [text[place:]])


@pytest.mark.parametrize("size", [4, 5, 7, 1000])
@given(unicode_texts, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_a_taken_buffer_holds_the_texts_in_order_and_ends_in_whole_chunks(
    size, documents, shuffled, referred, random
):
    expected = list(documents)
    raw = bytearray(b"before" + "".join(documents).encode() + b"after")
    ends = 6 + np.cumsum([len(text.encode()) for text in documents], dtype=np.int64)
    waiting = [Texts(raw, np.concatenate([[6], ends[:-1]])[: len(ends)].astype(np.int64), ends)]
    if shuffled:
        order = random.sample(range(len(documents)), len(documents))
        waiting = [waiting[0].take(np.array(order, np.int64))]
        expected = [documents[i] for i in order]
    view = memoryview(raw) if referred else None
    found, start = take_buffer(waiting)
    assert (waiting, bytes(found[start:])) == ([], "".join(expected).encode())
    if not shuffled:
        assert (found is raw) == (not referred)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", size)
        pieces = []
        while len(found) > start:
            pieces.insert(0, last_chunk(found, start).decode())
            del found[len(found) - len(pieces[0].encode()) :]
    assert "".join(pieces) == "".join(expected)
    assert view is None or bytes(view) == raw


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40)), st.integers(1, 60))
def test_with_lengths_frames_each_text_whatever_the_size_of_a_chunk(documents, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = b"".join(map(bytes, Texts.of(documents)[::-1].with_lengths()))
    encoded = [document.encode() for document in reversed(documents)]
    assert found == b"".join(len(raw).to_bytes(8, "little") + raw for raw in encoded)
