"""Read `data` into documents: from sources, through one buffer, to the unit of a document.

Owns the order of the steps and what a folder skips. Leaves out what a source name means
(sources/locating.py), formats (sources/), the choice of the unit (statistics.py) and the split.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanochat.data import separation, statistics
from nanochat.data.conversations import looks_like_conversations, marked, turns_of_text
from nanochat.data.sources.fetching import STDIN, Fetched
from nanochat.data.sources.folder import Identity
from nanochat.data.sources.locating import Located, locate
from nanochat.data.sources.opening import MissingReader, SourceFile, Unreadable
from nanochat.data.sources.progress import Progress, reading
from nanochat.data.sources.reading import read_source
from nanochat.data.texts import CHUNK, Texts
from nanochat.data.token_checks import checked_texts
from nanochat.errors import CorpusError, MissingDependency
from nanochat.system.wording import amount, counted, printable

__all__ = ["Corpus", "data_name", "load_corpus", "must_fit", "text_documents"]

_JUDGED = 100  # files of a folder whose statistics decide the unit
_AGREED = 0.9  # of them must be of one kind


@dataclass(frozen=True)
class Corpus:
    """The documents of a dataset in reading order. Text is not normalized."""

    name: str  # `data` as given
    documents: Texts  # of kind chat, as conversations.marked returns them
    kind: str  # the unit of one document: file, line, paragraph, separator, record or chat
    separator: str | None = None  # of kind separator, as an option is written
    reason: str | None = None  # why `auto` took this unit; None if it was given
    notes: tuple[str, ...] = ()  # sentences about sources, for the user
    fetched: tuple[Fetched, ...] = ()  # sources that a run folder keeps


def data_name(data: str | Sequence[str]) -> str:
    """Return the sources as one name for messages."""
    names = [data] if isinstance(data, str) else list(data)
    shown = ", ".join("standard input" if n == STDIN else printable(n) for n in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def load_corpus(
    data: str | Sequence[str],
    documents: str = "auto",
    data_dir: str | None = None,
    *,
    separator: str | None = None,
    text_column: str | None = None,
    folder: Path | None = None,
    require_separator: bool = True,
) -> Corpus:
    """Read the sources that `data` names: paths, folders, `-`, URLs, registry names.

    Args:
        documents: auto, file, line, paragraph or chat. auto takes the unit of the registry entry,
            one document per record, or what the statistics of the text say.
        data_dir: folder that is searched for registry data before it is downloaded.
        separator: text between two documents; instead of `documents`.
        text_column: column of records that holds the text.
        folder: run folder with copies of standard input and URLs.
        require_separator: whether a separator that does not occur is an error.

    Raises:
        CorpusError: the data cannot be found, read or decoded, or contains no text.
        MissingDependency: a format needs a package that is not installed.
    """
    names = (data,) if isinstance(data, str) else tuple(data)
    name, progress = data_name(names), reading()
    seen: set[Identity] = set()
    located = [locate(each, data_dir, folder, progress, seen) for each in names]
    buffer = _Buffer()
    buffer.report_to(progress, name, sum(len(place.files) for place in located))
    is_chat = {"chat": True, "auto": None}.get(documents, False)
    if separator is not None or (text_column is not None and documents == "auto"):
        is_chat = False
    for place in located:
        _read(place, text_column, is_chat, buffer)
    if not buffer.has_text():
        raise CorpusError(_nothing(name, located))
    unit = _unit_of(located, buffer, documents, separator)
    fetched = [f for place in located for f in place.files if isinstance(f, Fetched)]
    corpus = Corpus(
        name=name, documents=buffer.texts(), kind=unit.kind, separator=unit.separator,
        reason=unit.reason or None, notes=_notes(located), fetched=tuple(dict.fromkeys(fetched)),
    )  # fmt: skip
    return _split_into_documents(corpus, buffer, require_separator)


@contextmanager
def must_fit(name: str) -> Iterator[None]:
    """Raise CorpusError, which names the text, where memory runs out."""
    try:
        yield
    except MemoryError:
        raise CorpusError(
            f"{name} must fit in memory, and memory ran out while it was read; give a part of it,"
            " or end other programs"
        ) from None


def text_documents(text: str, documents: str, separator: str | None) -> Texts:
    """Return the documents that load_corpus finds in a file of this text.

    A separator need not occur. A model of conversations reads it as one document. Raises
    CorpusError, and TokenizerError for a lone surrogate.
    """
    if not text:
        raise CorpusError("text must have at least one character, got ''")
    buffer = _Buffer()
    buffer.take(bytes(checked_texts([text]).raw), True)
    documents = "file" if documents == "chat" else documents
    unit = _unit_of((), buffer, documents, separator)
    corpus = Corpus("the text", buffer.texts(), unit.kind, unit.separator)
    return _split_into_documents(corpus, buffer, False).documents


class _Buffer:
    """Texts that arrive in pieces, end to end in one growing buffer."""

    def __init__(self) -> None:
        self.raw = bytearray()
        self.ends = array("q")  # of each text
        self.records = 0  # texts that are records
        self.conversations = 0  # records that are conversations
        self.names: dict[int, str] = {}  # of the files of texts that are no records, by number
        self._progress: Progress | None = None
        self._name, self._files, self._begun = "", 0, 0  # of the text; the files of it
        self._report_at = 0  # bytes

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, piece: bytes, ends_text: bool) -> None:
        self.raw += piece
        if len(self.raw) >= self._report_at:
            self._report_at = len(self.raw) + CHUNK
            self._report()
        if ends_text:
            self.ends.append(len(self.raw))

    def report_to(self, progress: Progress, name: str, files: int) -> None:
        """Tell the progress from now on how much of the files has been read."""
        self._progress, self._name, self._files = progress, name, files

    def begin_file(self) -> None:
        self._begun += 1
        self._report()

    def _report(self) -> None:
        if self._progress is None or not self._progress.is_due():
            return
        done = f"{amount(len(self.raw))} so far"
        if self._files > 1:
            done = f"{self._begun - 1:,} of {self._files:,} files so far, {amount(len(self.raw))}"
        self._progress.tell(f"{self._name}: read {done}")

    def drop_unfinished(self, texts: int) -> None:
        """Drop everything after the first `texts` texts."""
        del self.ends[texts:]
        del self.raw[self.ends[-1] if self.ends else 0 :]

    def has_text(self) -> bool:
        return bool(self.raw)

    def texts(self) -> Texts:
        ends = np.array(self.ends, np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        return Texts(self.raw, starts, ends)

    def use_unix_line_breaks(self) -> None:
        """Replace each \\r\\n by \\n, in place: the text may be large."""
        if b"\r\n" not in self.raw:
            return
        done, start, ends = 0, 0, array("q")
        for end in self.ends:
            while start < end:
                last = min(start + CHUNK, end)
                while last < end and self.raw[last - 1] == 13:  # its line feed may follow
                    last += 1
                part = self.raw[start:last].replace(b"\r\n", b"\n")
                self.raw[done : done + len(part)] = part
                done, start = done + len(part), last
            ends.append(done)
        self.ends = ends  # the buffer keeps its size, because texts may refer to it


# ---------------------------------------------------------------------------- sources → buffer


def _read(place: Located, column: str | None, conversations: bool | None, buffer: _Buffer) -> None:
    """Read all files of one name. Files of a folder that cannot be read are counted."""
    for file in place.files:
        if not place.folder:
            try:
                _read_file(file, column, conversations, buffer)
            except MissingReader as error:
                raise MissingDependency(str(error)) from error
            except Unreadable as error:
                raise CorpusError(str(error)) from error
            continue
        before = len(buffer)
        try:
            _read_file(file, column, conversations, buffer)
        except Unreadable as error:
            buffer.drop_unfinished(before)
            place.skipped.add(error.kind)
        except MissingReader as error:
            buffer.drop_unfinished(before)
            place.skipped.add(error.kind, error.way_out)


def _read_file(
    file: SourceFile, column: str | None, conversations: bool | None, buffer: _Buffer
) -> None:
    before = len(buffer)
    buffer.begin_file()
    with must_fit(file.name):
        kind = read_source(file, column, buffer.take, conversations)
    if kind == "text":
        buffer.names[before] = file.name
    else:
        buffer.records += len(buffer) - before
    if kind == "conversations":
        buffer.conversations += len(buffer) - before


def _nothing(name: str, located: Sequence[Located]) -> str:
    skipped = [str(place.skipped) for place in located if place.skipped]
    if skipped:
        return f"{name} contains no text that can be read; skipped {', '.join(skipped)}"
    return f"{name} contains no text; give a text of at least one character"


def _notes(located: Sequence[Located]) -> tuple[str, ...]:
    notes = [place.note for place in located if place.note]
    notes += [f"{place.given}: skipped {place.skipped}" for place in located if place.skipped]
    return tuple(notes)


# -------------------------------------------------------------------------- buffer → documents


def _unit_of(
    located: Sequence[Located], buffer: _Buffer, documents: str, separator: str | None
) -> statistics.Decision:
    """Return the unit of a document; its reason is empty if it was given."""
    if separator is not None:
        return statistics.Decision("separator", "", separator)
    if documents == "chat":
        return statistics.Decision("chat", "")
    if buffer.conversations == len(buffer):
        return statistics.Decision("chat", "records of messages")
    if buffer.conversations:
        texts = buffer.texts()
        others = [
            name for number, name in buffer.names.items()
            if not looks_like_conversations(texts[number])
        ]  # fmt: skip
        if others or buffer.conversations < buffer.records:
            raise _mixed(others)
        return statistics.Decision("chat", "records of messages, and lines that begin with User:")
    all_records = buffer.records == len(buffer)
    if documents == "file" or (documents == "auto" and all_records):
        return statistics.Decision("record" if all_records else "file", "")
    if documents != "auto":
        return statistics.Decision(documents, "")
    registered = {place.documents for place in located}
    if None not in registered and len(registered) == 1:
        return statistics.Decision(str(registered.pop()), "")
    if buffer.records:
        return statistics.Decision("file", "records and files")
    return _judged(buffer.texts(), list(buffer.names.values()))


def _mixed(others: Sequence[str]) -> CorpusError:
    named = f", such as {others[0]}" if others else ""
    return CorpusError(
        f"the data must not mix conversations with other texts{named};"
        " name the files of one kind, or add --documents file to read all of them as plain text"
    )


def _judged(texts: Texts, names: Sequence[str]) -> statistics.Decision:
    """Return the unit that the statistics of the text, or of most of the files, show. Raises
    CorpusError if some files are conversations and others are not."""
    judged = [statistics.decide(view) for view in texts[:_JUDGED].views()]
    first = judged[0]
    agreeing = sum((d.kind, d.separator) == (first.kind, first.separator) for d in judged)
    if agreeing >= _AGREED * len(judged):
        return first
    others = [name for name, one in zip(names, judged, strict=False) if one.kind != "chat"]
    if len(others) < len(judged):
        raise _mixed(others)
    return statistics.Decision("file", "files of several kinds")


def _split_into_documents(corpus: Corpus, buffer: _Buffer, require_separator: bool) -> Corpus:
    if corpus.kind in ("file", "record"):
        return corpus
    if corpus.kind == "chat":
        return _with_note(_with_turns(corpus, buffer.names) if buffer.names else corpus)
    if corpus.kind == "line":
        return _replaced(corpus, separation.lines)
    buffer.use_unix_line_breaks()
    corpus = replace(corpus, documents=buffer.texts())
    if corpus.kind == "paragraph":
        return _replaced(corpus, separation.paragraphs)
    text = separation.unescaped(str(corpus.separator)).encode("utf-8")
    for everywhere in (False, True):
        if any(separation.occurs(text, view, everywhere) for view in corpus.documents.views()):
            return _replaced(corpus, separation.separated(text, everywhere))
    if not require_separator:
        return corpus
    raise CorpusError(
        f"separator must occur in the text, got {corpus.separator!r:.60}, which {corpus.name} does"
        " not contain; use --documents, or another separator"
    )


def _with_turns(corpus: Corpus, names: Mapping[int, str]) -> Corpus:
    """Return the corpus with each text that is no record split into its conversations."""
    raw, ends = bytearray(), array("q")
    for number, text in enumerate(corpus.documents):
        found = [text.encode()]
        if number in names:
            found = [marked(turns) for turns in turns_of_text(text, names[number])]
        for conversation in found:
            raw += conversation
            ends.append(len(raw))
    if not raw:
        raise CorpusError(f"{corpus.name} contains no conversation; begin lines with User:")
    bounds = np.array(ends, np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), bounds[:-1]])
    return replace(corpus, documents=Texts(raw, starts, bounds))


def _with_note(corpus: Corpus) -> Corpus:
    """Return a corpus of conversations; a note tells how many replies have no text."""
    raw = np.frombuffer(corpus.documents.raw, np.uint8)  # the conversations end to end
    begins = np.flatnonzero(raw == 0)  # of messages: NUL and the first letter of the role
    is_reply = raw[begins + 1] == ord(marked([("assistant", "")])[1:])
    replies = counted(int(is_reply.sum()), "reply", "replies")
    empty = int((is_reply & (np.diff(begins, append=len(raw)) == 2)).sum())
    if not empty:
        return corpus
    note = (
        f"{empty:,} of {replies} {'is' if empty == 1 else 'are'} empty:"
        " the model learns to say nothing there; remove them if that is not meant"
    )
    return replace(corpus, notes=(*corpus.notes, note))


def _replaced(corpus: Corpus, split: Callable[[memoryview], separation.Spans]) -> Corpus:
    """Return the corpus with each text split. Raises CorpusError if nothing is left."""
    texts = corpus.documents
    starts, ends = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for (start, _), view in zip(texts.bounds(), texts.views(), strict=True):
        spans = split(view)
        for bounds, part in zip((starts, ends), spans, strict=True):
            part += start
            bounds.append(part)
    found = Texts(texts.raw, _joined(starts), _joined(ends))
    if not found.has_text():
        raise CorpusError(
            f"{corpus.name} contains no text but white space; give a text of at least one character"
        )
    return replace(corpus, documents=found)


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Join arrays; a single one, which may be large, is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int64), *parts])
