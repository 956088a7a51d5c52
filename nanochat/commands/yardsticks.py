"""`eval --baselines`: a model next to n-gram counts and compressors on the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanochat.data.compressors import (
    MOST_READ,
    compressed_growth,
    end_of_text,
    joined,
    separator_of,
)
from nanochat.data.dataset import Dataset, SplitText
from nanochat.data.style import style_documents
from nanochat.data.texts import Texts
from nanochat.ngram.yardsticks import counted_scores
from nanochat.output.table import table_text
from nanochat.runs.text import ScoredText
from nanochat.system.wording import amount, counted

__all__ = ["BaselineScore", "baseline_scores", "baselines_text"]

SHORT = 1000  # bytes of a text, of which a compressor's rounding is a noticeable part


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineScore:
    """The score of a model or a baseline: all nats of a text over all of its bytes.

    The nats are those of all targets, the ends of documents included. The bytes are those of the
    text in UTF-8, the separators between documents included.
    """

    name: str
    order: int | None  # of counts and of PPMd
    adaptive: bool  # whether it also learns from the text that it scores
    bits_per_byte: float
    nats_per_byte: float
    note: str | None  # what it did not read


def _separator_of(text: ScoredText, training: Texts) -> bytes:
    """Return what ends each document of the text. A part of a single document has no end."""
    return separator_of(text.unit, text.separator, max(text.documents.count, len(training)))


def baseline_scores(
    models: Sequence[tuple[str, float]],  # names and nats
    text: ScoredText,
    training: tuple[SplitText, Dataset],
    *,
    adaptive: bool,  # the models
    style: str,
    seed: int,
    threads: int,
) -> Iterator[BaselineScore]:
    """Yield the scores of the models, of n-gram counts and of compressors.

    Counts and compressors learn from the training text. Compressors read at most MOST_READ bytes
    of it, and any length of the scored text.
    """
    split, dataset = training
    train = split.split.train
    if style == "futuristic":
        train = Texts.of([*train, *style_documents()])
    end = _separator_of(text, train)
    texts = text.texts
    assert texts is not None
    size = text.text_bytes + len(texts) * len(end)

    def score(
        name: str, nats: float, *, order: int | None = None, adaptive: bool = False,
        note: str | None = None,
    ) -> BaselineScore:  # fmt: skip
        return BaselineScore(
            name=name, order=order, adaptive=adaptive, note=note,
            bits_per_byte=nats / math.log(2) / size, nats_per_byte=nats / size,
        )  # fmt: skip

    for name, nats in models:
        yield score(name, nats, adaptive=adaptive)
    vocab_size = dataset.tokenizer.vocab_size
    for each in counted_scores(
        dataset.train, text.documents, vocab_size, seed=seed, threads=threads
    ):
        note = None if each.counted is None else f"counts the last {each.counted:,} tokens"
        yield score(each.name, each.nats, order=each.order, note=note)
    train_end = separator_of(split.unit, split.separator, max(len(train), len(texts)))
    read = end_of_text(train, train_end, MOST_READ)
    is_cut = int(train.lengths.sum()) + len(train) * len(train_end) > MOST_READ
    for found in compressed_growth(read, lambda: joined(texts, end), size):
        notes = [f"reads the last {amount(len(read))} of the training text"] if is_cut else []
        if found.dictionary is not None:
            notes.append(f"looks back at {amount(found.dictionary)}")
        yield score(
            found.name, found.growth * 8 * math.log(2), order=found.order, adaptive=True,
            note=", ".join(notes) or None,
        )  # fmt: skip


def baselines_text(scores: Sequence[BaselineScore], text: ScoredText, training: Texts) -> str:
    """Return the table of the scores, with what they have in common and what limits them."""
    header = ["", "order", "learns", "bits/byte", "nats/byte"]
    rows = [
        [
            each.name,
            "" if each.order is None else str(each.order),
            "adaptive" if each.adaptive else "frozen",
            f"{each.bits_per_byte:.4f}",
            f"{each.nats_per_byte:.4f}",
        ]
        for each in scores
    ]
    end = len(_separator_of(text, training))
    size = text.text_bytes + text.documents.count * end
    parts = counted(text.documents.count, "document")
    if end:
        parts += f", each with {counted(end, 'byte')} at its end"
    lines = [
        table_text(header, rows, numbers=(1, 3, 4)),
        f"{counted(size, 'byte')}: {parts}",
        "bits/byte: all nats, those of the ends of documents too, which bpb leaves out",
        "frozen: learned the training text only; adaptive: also learns what it has scored",
        *(f"{each.name} {each.note}" for each in scores if each.note),
    ]
    if size < SHORT:
        lines.append("the text is short: the scores of compressors, in whole bytes, are coarse")
    if text.is_training:
        lines.append("the scored text is the training text: counts and compressors have read it")
    if all(each.name != "PPMd" for each in scores):
        lines.append("no PPMd: it needs pyppmd; pip install 'nanochat-lab[ppmd]'")
    return "\n".join(lines)
