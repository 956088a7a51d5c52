"""`sample --report-copies`: what of the samples the training text has, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nanochat.data.dataset import Dataset, SplitText
from nanochat.data.tokenizer import BOS, Tokenizer
from nanochat.output.text import quoted
from nanochat.sampling.copies import Copy, covered, document_of, find_copies
from nanochat.system.wording import counted

__all__ = ["CopiedSpan", "SampleCopies", "marked", "report_copies", "report_text"]

BEGIN, END = "[[", "]]"
WIDTH = 80
_NEWLINE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedSpan:
    """A span of a sample that the training text has, and one place where it has it."""

    first: int  # token of the sample, from 0
    length: int  # tokens
    text: str
    document: int | None  # of the text in reading order, from 1; None: the embedded style corpus
    line: int  # of the document, from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCopies:
    """The copies in one sample, the prompt included."""

    tokens: int  # of the sample
    copied: int  # of these, in spans
    longest: int  # tokens of the longest span
    whole_document: int | None  # that has exactly the text of the sample
    spans: tuple[CopiedSpan, ...]
    pieces: tuple[str, ...]  # the text of each token
    ranges: tuple[tuple[int, int], ...]  # of tokens in spans

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `nanochat sample --json`."""
        record = asdict(self)
        del record["pieces"], record["ranges"]
        return record


def report_copies(
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],  # of each text, with the prompt; those after its end too
    least: int,
    source: SplitText,
    dataset: Dataset,
) -> list[SampleCopies]:
    """Return what each sample has of the training text, in spans of at least `least` tokens."""
    samples, pieces = [], []
    for text, ids in zip(texts, tokens, strict=True):
        known = _pieces(dataset.tokenizer, [token for token in ids if token != BOS], text)
        samples.append([token for token, _ in known])
        pieces.append([piece for _, piece in known])
    places = _Places(source, dataset)
    reports = []
    for sample, parts, copies in zip(
        samples, pieces, find_copies(samples, dataset.train.stream, least), strict=True
    ):
        whole = document_of(sample, dataset.train) if sample else None
        ranges = covered(copies)
        reports.append(
            SampleCopies(
                tokens=len(sample), copied=sum(end - first for first, end in ranges),
                longest=max((copy.length for copy in copies), default=0),
                whole_document=None if whole is None else places.number(whole),
                spans=tuple(_span(copy, parts, places) for copy in copies),
                pieces=tuple(parts), ranges=tuple(ranges),
            )
        )  # fmt: skip
    return reports


def _pieces(tokenizer: Tokenizer, tokens: Sequence[int], text: str) -> list[tuple[int, str]]:
    """Return the tokens of a text and the text of each; a stop text may have cut some off."""
    stream, found, left = tokenizer.stream(), list[tuple[int, str]](), len(text)
    for token in tokens:
        piece = stream.push(token)[:left]
        found.append((token, piece))
        left -= len(piece)
        if not left:
            break
    if found and left:  # a character that was never completed
        found[-1] = (found[-1][0], found[-1][1] + text[len(text) - left :])
    return found


def _span(copy: Copy, pieces: Sequence[str], places: _Places) -> CopiedSpan:
    document, line = places.of(copy.position)
    text = "".join(pieces[copy.first : copy.first + copy.length])
    return CopiedSpan(
        first=copy.first, length=copy.length, text=text, document=document, line=line
    )  # fmt: skip


class _Places:
    """Where a token of the training text is in its source."""

    def __init__(self, source: SplitText, dataset: Dataset) -> None:
        self._train, self._dataset = source.split.train, dataset
        # The order of reading is the order in the buffer, which both parts share. The two parts
        # of a single document are one document.
        starts = self._train.starts
        if dataset.val_source == "val" and len(self._train) + len(source.split.val) > 2:
            starts = np.concatenate([starts, source.split.val.starts])
        self._starts = np.sort(starts)
        offsets = dataset.train.offsets
        self._begun = offsets + np.arange(len(offsets))  # of each document, in the stream

    def number(self, document: int) -> int | None:
        """Return the number of a document of the training part in reading order, from 1."""
        if document >= len(self._train):
            return None
        return int(np.searchsorted(self._starts, self._train.starts[document])) + 1

    def of(self, position: int) -> tuple[int | None, int]:
        """Return document and line of a token of the stream."""
        train = self._dataset.train
        document = int(np.searchsorted(self._begun, position, side="right")) - 1
        before = train.stream[int(self._begun[document]) + 1 : position]
        if document >= len(self._train):
            return None, document - len(self._train) + 1
        size = int(self._dataset.tokenizer.token_bytes[before].sum())
        (view,) = self._train[document : document + 1].views()
        line = 1 + int(np.count_nonzero(np.frombuffer(view[:size], np.uint8) == _NEWLINE))
        return self.number(document), line


# ---------------------------------------------------------------------------- what people see


def marked(report: SampleCopies) -> str:
    """Return the text of a sample with its copies between BEGIN and END."""
    begins = {first for first, _ in report.ranges}
    ends = {end for _, end in report.ranges}
    text = ""
    for number, piece in enumerate(report.pieces):
        text += (END if number in ends else "") + (BEGIN if number in begins else "") + piece
    return text + (END if len(report.pieces) in ends else "")


def report_text(
    reports: Sequence[SampleCopies], least: int, dataset: Dataset, encoding: str = "utf-8"
) -> str:
    """Return a line per copy, in the order of the samples, and a summary."""
    lines = []
    for number, report in enumerate(reports, start=1):
        of = f"sample {number}, " if len(reports) > 1 else ""
        for span in report.spans:
            place = f"{of}{counted(span.length, 'token')} of {_place(span, dataset)}: "
            lines.append(place + quoted(span.text, WIDTH - len(place), encoding))
    tokens = sum(report.tokens for report in reports)
    copied = sum(report.copied for report in reports)
    share = f" ({100 * copied / tokens:.1f} %)" if tokens else ""
    summary = f"copied: {copied:,} of {counted(tokens, 'token')}{share}"
    longest = max((report.longest for report in reports), default=0)
    spans = sum(len(report.spans) for report in reports)
    if spans:
        summary += f" in {counted(spans, 'span')} of at least {least}; longest {longest:,}"
    else:
        summary += f"; no span of at least {counted(least, 'token')}"
    lines.append(summary)
    whole = sum(report.whole_document is not None for report in reports)
    if dataset.train.count > 1:
        lines.append(f"samples that equal a training document: {whole:,} of {len(reports):,}")
    return "\n".join(lines)


def _place(span: CopiedSpan, dataset: Dataset) -> str:
    if span.document is None:
        return f"the style corpus, line {span.line:,}"
    if dataset.train.count == 1:
        return f"line {span.line:,}"
    line = f", line {span.line:,}" if dataset.documents != "line" else ""
    return f"document {span.document:,}{line}"
