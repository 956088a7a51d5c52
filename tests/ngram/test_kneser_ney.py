"""KneserNey as Python sees it: views of one text, errors, and memory that is returned."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
from oracles.texts import documents_of

from nanochat.data.documents import Documents
from nanochat.errors import KernelError
from nanochat.ngram.kneser_ney import KneserNey


def test_losses_and_distributions_agree() -> None:
    text = documents_of([[1, 2, 3, 1, 2], [2, 2], []])
    model = KneserNey.count(text, 3, 4)
    expected = [
        model.distribution([0, *document[:i]])[target]
        for document in ([1, 2, 3, 1, 2], [2, 2], [])
        for i, target in enumerate([*document, 0])
    ]
    np.testing.assert_allclose(np.exp(-model.token_losses(text)), expected, 1e-12)


def test_a_model_of_no_text_is_uniform() -> None:
    model = KneserNey.count(documents_of([]), 5, 8)
    assert model.distribution([3, 1]).tolist() == [1 / 8] * 8
    np.testing.assert_allclose(model.token_losses(documents_of([[1], []])), np.log(8), 1e-15)


def test_tokens_before_the_last_bos_do_not_count() -> None:
    model = KneserNey.count(documents_of([[1, 2, 1, 2, 2], [2, 1]]), 4, 3)
    assert (model.distribution([1, 1, 0, 2]) == model.distribution([0, 2])).all()
    assert (model.distribution([2]) != model.distribution([0, 2])).any()


def test_arrays_of_other_types_and_strides_are_accepted() -> None:
    text = documents_of([[1, 2, 1], [2, 2, 1]])
    other = Documents.of(
        np.repeat(text.tokens, 2)[::2].astype(np.int32),  # type: ignore[arg-type]  # another width
        text.offsets.astype(np.int32),  # type: ignore[arg-type]  # another width
    )
    expected = KneserNey.count(text, 2, 3).token_losses(text)
    assert (KneserNey.count(other, 2, 3).token_losses(other) == expected).all()


@pytest.mark.parametrize(
    ("order", "vocab", "threads", "message"),
    [
        (0, 3, 1, r"^order must be in \[1, 2\^31\), got 0$"),
        ((1 << 32) + 1, 3, 1, r"^order must be in \[1, 2\^31\), got 4294967297$"),
        (17, 3, 1, r"^order must be in \[1, 16\], got 17$"),
        (2, 2, 1, r"^token 1 must be in \[1, 2\), got 2$"),
        (2, 3, 1 << 40, r"^threads must be in \[1, 2\^31\), got 1099511627776$"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(
    order: int, vocab: int, threads: int, message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        KneserNey.count(documents_of([[1, 2]]), order, vocab, threads)


def test_offsets_that_do_not_end_with_the_tokens_are_refused() -> None:
    text = Documents(np.array([0, 1, 2, 1, 0]), np.array([0, 2]))
    with pytest.raises(KernelError, match=r"^the last offset must be the number of tokens, 3, got"):
        KneserNey.count(text, 2, 3)
    model = KneserNey.count(documents_of([[1, 2]]), 2, 3)
    with pytest.raises(KernelError, match=r"^order must be in \[1, 2\], got 3$"):
        model.distribution([1], order=3)
    with pytest.raises(KernelError, match=r"^most_order must be in \[1, 2\], got 9$"):
        model.token_losses(documents_of([[1]]), order=9)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_counts_are_freed_with_their_model() -> None:
    def resident() -> int:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * 4096

    tokens = np.random.default_rng(0).integers(1, 20, 40_000)
    text = Documents.of(tokens, np.array([0, len(tokens)]))
    sizes = []
    for _ in range(12):
        model = KneserNey.count(text, 8, 20)
        taken = model.bytes
        del model
        gc.collect()
        sizes.append(resident())
    assert taken > 1 << 19
    assert sizes[-1] - sizes[1] < 5 * taken  # ten models would take ten times as much


def test_memory_stays_within_its_bounds_per_token() -> None:
    """Random tokens repeat least, so nearly every context is a leaf; real text takes less."""
    random = np.random.default_rng(0)
    tokens = np.minimum(random.zipf(1.3, 50_000), 60)
    text = Documents.of(tokens, np.array([0, len(tokens)]))
    assert KneserNey.count(text, 7, 61).bytes <= 40 * len(tokens)
    assert KneserNey.count(text, 13, 61).bytes <= 90 * len(tokens)


_COUNT_IN_CHUNKS = """
import sys
import numpy as np
from nanochat.data.documents import Documents
from nanochat.ngram.kneser_ney import Cutoff, KneserNey

tokens = np.random.default_rng(0).integers(1, 60, 1_000_000, dtype=np.uint8)
text = Documents.of(tokens, np.array([0, len(tokens)]))
KneserNey.count(text.piece(0, 9), 6, 61, cutoff=Cutoff(3, 99))  # loads the library
del tokens

def peak():  # ru_maxrss would include that of the parent process
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

before = peak()
model = KneserNey.count(text, 6, 61, int(sys.argv[1]), cutoff=Cutoff(3, 99), chunk=int(sys.argv[2]))
print(peak() - before, model.bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_long_text_is_bounded_by_its_chunks_and_not_by_its_length() -> None:
    def taken(chunk: int) -> tuple[int, int]:
        command = [sys.executable, "-c", _COUNT_IN_CHUNKS, "1", str(chunk)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        more, size = map(int, out.split())
        return more, size

    chunk = 1 << 17
    more, size = taken(chunk)
    bound = 2 * size + 40 * chunk + (3 << 20)  # and the blocks that the tables grow in
    assert more <= bound
    assert bound < taken(1 << 20)[0]
