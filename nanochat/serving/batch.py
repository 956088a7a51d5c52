"""Continuous batching: the thread that draws the texts of all requests, a few tokens at a time.

A text that waits gets a row as soon as one is free, and leaves it when it ends or when its client
has gone. Owns the order of the work. Leaves out how tokens are computed (rows.py) and what clients
send and get (requests.py, replies.py).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.special_tokens import plain_tokenizer
from nanochat.data.tokenizer import BOS, Tokenizer
from nanochat.errors import NanochatError
from nanochat.sampling.generate import GrowingText
from nanochat.serving.rows import RowParts, TextRows, TextStart

__all__ = ["Apart", "Batch", "DrawnToken", "Part", "Texts", "Work"]

Work = Generator[None, None, Any]  # yields between its steps

# Prompt tokens that are read between two tokens of the texts that are being drawn.
_READ_BETWEEN = 128
# Parts are handed over at most this often: a reply of a part per token would take longer than the
# token of a small model.
_HAND_OVER_S, _HAND_OVER_PER_TEXT_S = 0.01, 0.001
# Tokens are drawn in calls of about this long, for which a text that joins waits.
_AT_ONCE_S = 0.005


@dataclass(frozen=True, slots=True)
class Apart:
    """What network and counts of a mixture each said of a drawn token and of the likeliest ones."""

    share: float  # of the counts
    probabilities: dict[int, tuple[float, float]]  # by token: of the network, of the counts


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """One drawn token with its log probability, and those of the likeliest tokens."""

    token: int
    log_probability: float
    likeliest: tuple[tuple[int, float], ...]
    apart: Apart | None  # of a mixture, if the request asks for it

    @classmethod
    def of(
        cls,
        token: int,
        logs: NDArray[np.float64],  # (vocab,) log probabilities
        parts: RowParts | None,  # of a mixture
        most: int,  # likeliest tokens
    ) -> DrawnToken:
        """Return a token with what the model said of it and of the likeliest ones."""
        order = np.argsort(-logs, kind="stable")[:most].tolist() if most else []
        likeliest = tuple((other, float(logs[other])) for other in order)
        apart = None if parts is None else Apart(
            parts.share,
            {each: (float(parts.network[each]), float(parts.counts[each]))
             for each in {token, *order}},
        )  # fmt: skip
        return cls(token, float(logs[token]), likeliest, apart)


@dataclass(frozen=True, slots=True)
class Part:
    """What one text has grown by."""

    text: int  # its number in the request
    piece: str
    tokens: int  # drawn since the last part, the end of the document excluded
    drawn: tuple[DrawnToken, ...]  # if the request asks for them
    finish_reason: str | None  # stop or length, of the last part


@dataclass(slots=True, eq=False)
class Texts:
    """The texts of one request, as the batch draws them.

    `on_parts` is called on the thread of the batch, with the parts of some of the texts or with
    the error that ended them all.
    """

    starts: Sequence[TextStart]
    on_parts: Callable[[Sequence[Part], NanochatError | None], None]
    streams: bool = True  # otherwise parts are handed over at the end of a text
    likeliest: int | None = None  # None: no log probabilities; or the number of tokens next to it
    is_apart: bool = False  # with what network and counts of a mixture each said
    gone: bool = False  # set by `drop`


@dataclass(slots=True, eq=False)
class _Row:
    """A text that is drawn."""

    texts: Texts
    number: int  # of the text
    row: int
    text: GrowingText
    most: int  # tokens
    pieces: list[str]
    is_watched: (
        bool  # each token is looked at when it is drawn: for its log probabilities or a stop
    )
    count: int = 0  # tokens drawn
    sent: int = 0  # of them
    drawn: list[DrawnToken] = field(default_factory=list)
    finish_reason: str | None = None
    has_end_token: bool = False  # which does not belong to the text


class Batch:
    """Draws the texts of requests on a thread of its own, until `close`."""

    def __init__(
        self,
        rows: TextRows,
        count: int,  # of the rows
        tokenizer: Tokenizer,
        most_waiting: int,  # texts
    ) -> None:
        self._rows, self._tokenizer, self._most_waiting = rows, tokenizer, most_waiting
        # BOS ends a document, and the special tokens after the text's end a message.
        self._text_tokens = plain_tokenizer(tokenizer).vocab_size
        self._free = list(range(count))  # a heap is not worth it: the lowest numbers go first
        self._waiting: deque[tuple[Texts, int]] = deque()
        self._reading: list[_Row] = []  # their prompts
        self._drawing: list[_Row] = []  # by row
        self._steps: list[list[int]] = []  # tokens of each of them that are not in its text yet
        self._most_steps = 0  # until one of them has its number of tokens
        self._watches = False  # each token of some of them
        self._step_s = math.inf  # of the last step; inf: not known
        # Work in steps, of which only the first has begun, and where its result goes.
        self._works: deque[tuple[Future[Any], Work]] = deque()
        self._changed = threading.Condition()
        self._closed = self._some_are_gone = False
        self._numbers: list[int] = []  # of the rows that are drawn
        self.tokens_drawn, self.tokens_read = 0, 0
        self._thread = threading.Thread(target=self._run, name="batch", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------- called by other threads

    def add(self, texts: Texts) -> bool:
        """Queue the texts of a request; return False if too many wait already."""
        with self._changed:
            room = len(self._free) + self._most_waiting - len(self._waiting)
            if self._closed or len(texts.starts) > room:
                return False
            self._waiting.extend((texts, number) for number in range(len(texts.starts)))
            self._changed.notify()
        return True

    def work(self, steps: Work) -> Future[Any] | None:
        """Run work that uses the model, a step of it between two tokens of the texts.

        The future has what it returns or raises. One that is cancelled ends it before its next
        step. Returns None if too many requests wait already.
        """
        future = Future[Any]()
        with self._changed:
            if self._closed or len(self._works) > self._most_waiting:
                return None
            self._works.append((future, steps))
            self._changed.notify()
        return future

    def drop(self, texts: Texts) -> None:
        """Free the rows of a request before its next token."""
        with self._changed:
            texts.gone = self._some_are_gone = True
            self._waiting = deque(each for each in self._waiting if each[0] is not texts)
            self._changed.notify()

    def close(self) -> None:
        """End the thread, and with it every text."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Texts that have no row yet."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Texts that have a row."""
        return len(self._reading) + len(self._drawing)

    # --------------------------------------------------------------------- the thread of the batch

    def _run(self) -> None:
        handed_over = 0.0
        while self._admit():
            self._step_work()
            try:
                self._read_prompts()
                ended = self._draw()
            except Exception as error:  # of the model: the texts end, and the server goes on
                self._fail(error)
                continue
            now = time.perf_counter()
            wait = _HAND_OVER_S + _HAND_OVER_PER_TEXT_S * len(self._drawing)
            if now - handed_over > wait or not self._drawing:
                handed_over = now
                self._settle()
                self._hand_over(self._drawing)
            self._hand_over(ended)

    def _admit(self) -> bool:
        """Give free rows to the texts that wait, wait for work; return False at the end."""
        with self._changed:
            if self._some_are_gone:
                self._some_are_gone = False
                self._leave([row for row in (*self._reading, *self._drawing) if row.texts.gone])
            while not (
                self._closed or self._waiting or self._reading or self._drawing or self._works
            ):
                self._changed.wait()
            if self._closed:
                return False
            chosen = []
            while self._waiting and self._free:
                texts, number = self._waiting.popleft()
                chosen.append((texts, number, self._free.pop(0)))
            for texts, number, row in chosen:
                start, pieces = texts.starts[number], list[str]()
                text = GrowingText("", self._tokenizer, start.settings, pieces.append)
                self._rows.begin(row, start)
                how = start.settings
                is_watched = texts.likeliest is not None or bool(how.stop)
                self._reading.append(
                    _Row(texts, number, row, text, how.max_new_tokens, pieces, is_watched)
                )
        return True

    def _step_work(self) -> None:
        if not self._works:
            return
        future, steps = self._works[0]
        result, error = None, None
        if not future.cancelled():  # by a client that has gone
            try:
                next(steps)
                return
            except StopIteration as end:
                result = end.value
            except Exception as raised:
                error = raised
        self._works.popleft()
        if future.set_running_or_notify_cancel():
            future.set_exception(error) if error else future.set_result(result)

    def _leave(self, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        self._settle()
        left = {id(row) for row in rows}
        self._reading = [row for row in self._reading if id(row) not in left]
        self._drawing = [row for row in self._drawing if id(row) not in left]
        self._numbers = []
        for row in rows:
            self._rows.end(row.row)
        self._free = sorted([*self._free, *(row.row for row in rows)])

    def _read_prompts(self) -> None:
        left = _READ_BETWEEN
        while self._reading and (left > 0 or not self._drawing):
            row = self._reading[0]
            left -= 64
            if self._rows.read(row.row):
                self.tokens_read += len(row.texts.starts[row.number].context)
                del self._reading[0]
                self._settle()
                self._drawing.append(row)
                self._drawing.sort(key=lambda each: each.row)
                self._numbers = []

    def _draw(self) -> list[_Row]:
        """Draw tokens of each text, as many of each; return the texts that have ended."""
        drawing = self._drawing
        if not drawing:
            return []
        if len(self._numbers) != len(drawing):
            self._numbers = [row.row for row in drawing]
            self._most_steps = min(row.most - row.count for row in drawing)
            self._watches = any(row.is_watched for row in drawing)
            self._step_s = math.inf
        began = time.perf_counter()
        steps = self._rows.next_steps(self._numbers, self._steps_at_once(), self._text_tokens)
        self._step_s = (time.perf_counter() - began) / len(steps)
        self.tokens_drawn += len(steps) * len(drawing)
        self._steps += steps
        tokens = steps[-1]
        has_end = BOS in tokens or max(tokens) >= self._text_tokens
        if not (has_end or self._watches or len(self._steps) == self._most_steps):
            return []
        for row, token in zip(drawing, tokens, strict=True):
            if row.texts.likeliest is not None and not self._is_end(token):
                row.drawn.append(self._explained(row, token))
        ended = self._settle()
        self._leave(ended)
        return ended

    def _steps_at_once(self) -> int:
        """Return how many tokens of each text may be drawn before anything else is looked at."""
        joins = self._waiting and self._free
        if self._watches or self._reading or self._works or joins:
            return 1
        fitting = int(_AT_ONCE_S / max(self._step_s, 1e-9))
        return max(1, min(fitting, self._most_steps - len(self._steps)))

    def _is_end(self, token: int) -> bool:
        return token == BOS or token >= self._text_tokens

    def _settle(self) -> list[_Row]:
        """Put the tokens that have been drawn in their texts; return the texts that have ended."""
        steps, self._steps, ended = self._steps, [], []
        for row, tokens in zip(self._drawing, zip(*steps, strict=True), strict=bool(steps)):
            is_end = self._is_end(tokens[-1])
            row.count += len(tokens)
            is_stopped = row.text.push(*tokens) or is_end
            if is_stopped or row.count == row.most:
                row.finish_reason = "stop" if is_stopped else "length"
                row.has_end_token = is_end
                row.text.end()
                ended.append(row)
        self._most_steps -= len(steps)
        return ended

    def _explained(self, row: _Row, token: int) -> DrawnToken:
        parts = self._rows.parts(row.row) if row.texts.is_apart else None
        logs = self._rows.log_probabilities(row.row)
        return DrawnToken.of(token, logs, parts, row.texts.likeliest or 0)

    def _hand_over(self, rows: Sequence[_Row]) -> None:
        parts: dict[int, tuple[Texts, list[Part]]] = {}
        for row in rows:
            texts = row.texts
            is_due = row.pieces or row.drawn or row.finish_reason
            if not is_due or not (texts.streams or row.finish_reason):
                continue
            count = row.count - row.has_end_token
            part = Part(
                row.number, "".join(row.pieces), count - row.sent, tuple(row.drawn),
                row.finish_reason,
            )  # fmt: skip
            row.pieces.clear()
            row.drawn.clear()
            row.sent = count
            parts.setdefault(id(texts), (texts, []))[1].append(part)
        for texts, found in parts.values():
            texts.on_parts(found, None)

    def _fail(self, error: Exception) -> None:
        """End every text that has a row."""
        rows = [*self._reading, *self._drawing]
        told = error if isinstance(error, NanochatError) else NanochatError(repr(error))
        with self._changed:
            self._leave(rows)
        for texts in {id(row.texts): row.texts for row in rows}.values():
            self.drop(texts)
            texts.on_parts((), told)
