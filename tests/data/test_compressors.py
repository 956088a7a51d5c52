"""The growth of the compressed size, against the compressors' own modules."""

from __future__ import annotations

import bz2
import lzma
import sys

import numpy as np
import pyppmd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import compressors
from nanochat.data.compressors import compressed_growth, end_of_text, joined, separator_of
from nanochat.data.texts import Texts

WORDS = [b"to ", b"be ", b"or ", b"not ", b"that ", b"is ", b"the ", b"question\n"]


def text(seed: int, words: int) -> bytes:
    chosen = np.random.default_rng(seed).integers(0, len(WORDS), words)
    return b"".join(WORDS[i] for i in chosen)


def growth(train: bytes, scored: bytes) -> dict[str, compressors.Compressed]:
    pieces = [scored[: len(scored) // 3], memoryview(scored)[len(scored) // 3 :]]
    found = compressed_growth(train, lambda: pieces, len(scored))
    return {each.name: each for each in found}


@pytest.mark.parametrize(("train", "scored"), [(4000, 500), (0, 300), (1, 1), (300, 0)])
def test_each_growth_is_that_of_the_module_on_the_whole_text(train, scored):
    before, after = text(1, train), text(2, scored)
    found = growth(before, after)
    assert list(found) == ["xz", "bz2", "PPMd"]

    def grown(compress) -> int:
        return len(compress(before + after)) - len(compress(before))

    assert found["xz"].growth == grown(lambda t: lzma.compress(t, preset=9 | lzma.PRESET_EXTREME))
    assert found["bz2"].growth == grown(bz2.compress)

    def ppmd(order: int, data: bytes) -> bytes:
        encoder = pyppmd.Ppmd7Encoder(order, 1 << 24)
        return bytes(encoder.encode(data) + encoder.flush())

    order = found["PPMd"].order
    assert order is not None
    assert found["PPMd"].growth == grown(lambda t: ppmd(order, t))
    sizes = [len(ppmd(each, before)) for each in compressors._PPMD_ORDERS]
    assert len(ppmd(order, before)) == min(sizes)


def test_without_the_package_ppmd_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyppmd", None)
    assert list(growth(text(1, 50), text(2, 20))) == ["xz", "bz2"]


def test_xz_says_how_far_it_looks_back_when_that_is_not_the_whole_text(monkeypatch):
    repeated = np.random.default_rng(3).bytes(9000)
    whole = growth(repeated, repeated)["xz"]
    assert whole.dictionary is None
    assert whole.growth < 1000
    monkeypatch.setattr(compressors, "MOST_DICTIONARY", 1 << 12)
    limited = growth(repeated, repeated)["xz"]
    assert limited.dictionary == 1 << 12
    assert limited.growth > 8000


documents = st.lists(st.text("aé\n", max_size=5), min_size=1, max_size=8)


@settings(deadline=None)
@given(documents, st.sampled_from([b"", b"\n", b"\n\n"]), st.integers(0, 60))
def test_the_joined_text_is_each_document_and_its_separator(texts, separator, most):
    expected = b"".join(each.encode() + separator for each in texts)
    assert b"".join(joined(Texts.of(texts), separator)) == expected
    assert end_of_text(Texts.of(texts), separator, most) == expected[max(len(expected) - most, 0) :]


@pytest.mark.parametrize(
    ("unit", "separator", "documents", "expected"),
    [
        ("line", None, 5, b"\n"), ("line", None, 1, b"\n"), ("paragraph", None, 5, b"\n\n"),
        ("separator", r"\n%\n", 5, b"\n%\n"), ("auto", "—", 1, "—".encode()),
        ("file", None, 1, b""), ("file", None, 2, b"\n"), ("record", None, 9, b"\n"),
    ],
)  # fmt: skip
def test_a_document_ends_as_its_unit_does(unit, separator, documents, expected):
    assert separator_of(unit, separator, documents) == expected
