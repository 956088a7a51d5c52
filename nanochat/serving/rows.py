"""The texts that are drawn at one time: which decoder reads them, and the draw of their tokens.

A text is bit-identical to the one that sampling.sample_tokens draws alone, whatever other texts are
drawn with it. Leaves out whose turn it is and when a text ends (batch.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat import native
from nanochat.engines import open_rows
from nanochat.ngram.kernels import Mixture, check, kernels
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.share import Share, start_offset
from nanochat.runs.load import TrainedModel
from nanochat.sampling.cpu_draw import ONE_THREAD_LOGITS, DrawsOnCpu
from nanochat.sampling.mixed import (
    FEW_LOGITS,
    LOOKUP_LOGITS,
    MixedDecoder,
    log_softmax,
    parts_of_logits,
    share_of_log_odds,
)
from nanochat.sampling.sampling import (
    OpensDecoders,
    PhraseBias,
    SamplingSettings,
    random_block,
    sample_tokens,
)
from nanochat.system.threads import thread_count
from nanochat.training.engine import Decoder

__all__ = ["RowParts", "SeparateRows", "SharedRows", "TextRows", "TextStart", "rows_of"]

# Tokens of a prompt that are read at a time, while other texts wait. They take about as long as a
# token of as many texts.
PIECE = 64
# Random numbers that are made for a text at a time: for one text, the call costs more than they.
_WORDS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStart:
    """What a text begins with and how it goes on."""

    context: tuple[int, ...]  # at least one token
    settings: SamplingSettings
    sample: int  # the number of the sample, which chooses its random numbers


@dataclass(frozen=True, slots=True)
class RowParts:
    """What a mixture of network and counts is made of: (1 − share) · network + share · counts."""

    network: NDArray[np.float64]  # (vocab,) probability of each token
    counts: NDArray[np.float64]  # (vocab,)
    share: float  # of the counts


class TextRows(Protocol):
    """Rows of texts, each of which begins and ends when the caller says so."""

    def begin(self, row: int, text: TextStart) -> None:
        """Put a text in a row that has none."""

    def read(self, row: int) -> bool:
        """Read a piece of the prompt of a row; return whether all of it has been read."""

    def next_tokens(self, rows: Sequence[int]) -> list[int]:
        """Draw the next token of each of these rows, whose numbers ascend."""

    def next_steps(self, rows: Sequence[int], most: int, first_end: int) -> list[list[int]]:
        """Draw up to `most` tokens of each of these rows, at least one: steps of a token of each.

        The step that draws BOS, or a token from first_end on, is the last one.
        """

    def log_probabilities(self, row: int) -> NDArray[np.float64]:  # (vocab,)
        """Return what the model said of the token that was just drawn, at temperature 1."""

    def parts(self, row: int) -> RowParts | None:
        """Return what network and counts each said of it, or None if the model is one of them."""

    def end(self, row: int) -> None:
        """Free a row."""


def rows_of(trained: TrainedModel, rows: int, bias: PhraseBias | None = None) -> TextRows:
    """Return rows for the texts of a model: with one decoder for all if there is one for it."""
    opened = open_rows(trained.engine, rows)
    if opened is None or (trained.config.ngram_order and trained.counts is None):
        return SeparateRows(trained.mixture, rows, bias)
    return SharedRows(
        opened, rows, bias, counts=trained.counts, share=trained.engine.share,
        threads=thread_count(trained.config.threads),
    )  # fmt: skip


class SeparateRows:
    """A decoder per row, each stepped in turn: right for every engine."""

    def __init__(self, engine: OpensDecoders, rows: int, bias: PhraseBias | None) -> None:
        self._engine, self._bias = engine, bias
        self._rows: list[_SeparateRow | None] = [None] * rows

    def begin(self, row: int, text: TextStart) -> None:
        self._rows[row] = _SeparateRow(self._engine, text, self._bias)

    def read(self, row: int) -> bool:
        return True  # by the first next_tokens()

    def next_tokens(self, rows: Sequence[int]) -> list[int]:
        return [self._row(row).next_token() for row in rows]

    def next_steps(self, rows: Sequence[int], most: int, first_end: int) -> list[list[int]]:
        return [self.next_tokens(rows)]

    def log_probabilities(self, row: int) -> NDArray[np.float64]:
        decoder = self._row(row).decoder
        assert decoder is not None
        return log_softmax(np.asarray(decoder.logits[0], np.float64))

    def parts(self, row: int) -> RowParts | None:
        decoder = self._row(row).decoder
        if not isinstance(decoder, MixedDecoder):
            return None
        network, counts, share = decoder.parts()
        return RowParts(network[0], counts[0], float(share[0]))

    def end(self, row: int) -> None:
        self._rows[row] = None

    def _row(self, row: int) -> _SeparateRow:
        found = self._rows[row]
        assert found is not None
        return found


class _SeparateRow:
    def __init__(self, engine: OpensDecoders, text: TextStart, bias: PhraseBias | None) -> None:
        self._engine = engine
        self.decoder: Decoder | None = None
        self._tokens: Iterator[list[int | None]] = sample_tokens(
            self, text.context, text.settings, rows=1, first_row=text.sample, bias=bias
        )

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        self.decoder = self._engine.open_decoder(prompts)
        return self.decoder

    def next_token(self) -> int:
        (token,) = next(self._tokens)
        assert token is not None
        return token


class RowDecoder(Protocol):
    """What SharedRows needs of tensor.native.rows.NativeRows."""

    kept_logits: NDArray[Any]  # (rows, vocab) float32 or float64
    can_write: bool  # whether `write` may be called

    def begin(self, row: int) -> None: ...

    def read(self, row: int, ids: Sequence[int]) -> None: ...

    def advance(self, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> None: ...

    def write(
        self, rows: NDArray[np.int64], newest: NDArray[np.int64], random: NDArray[np.uint64], *,
        temperature: float, top_k: int, top_p: float, first_end: int, mixture: int, contexts: int,
        draw_threads: int,
    ) -> NDArray[np.int64]: ...  # fmt: skip


class SharedRows:
    """One decoder for all rows, which reads the weights once for the tokens of all texts."""

    def __init__(
        self,
        network: RowDecoder,
        rows: int,
        bias: PhraseBias | None,
        *,
        counts: KneserNey | None,  # that the network is mixed with
        share: Share,
        threads: int,
    ) -> None:
        self._network, self._bias = network, bias
        self._source: _OfNetwork | _OfMixture = (
            _OfNetwork(network.kept_logits, threads)
            if counts is None
            else _OfMixture(network.kept_logits, counts, share, threads)
        )
        self._texts: list[TextStart | None] = [None] * rows
        self._unread: list[Sequence[int]] = [()] * rows  # of the prompts
        self._newest = np.zeros(rows, np.int64)
        self._positions = np.zeros(rows, np.int64)  # tokens drawn
        self._random = np.zeros((rows, _WORDS), np.uint64)
        self._histories: list[list[int]] = [[] for _ in range(rows)]  # for the bias alone
        self._plan: _Plan | None = None

    def begin(self, row: int, text: TextStart) -> None:
        self._end_plan()
        self._texts[row], self._unread[row] = text, text.context
        self._positions[row] = 0
        self._histories[row] = list(text.context)
        self._network.begin(row)
        self._source.begin(row, text.context)

    def read(self, row: int) -> bool:
        unread = self._unread[row]
        self._network.read(row, unread[:PIECE])
        self._unread[row] = unread[PIECE:]
        return not self._unread[row]

    def next_tokens(self, rows: Sequence[int]) -> list[int]:
        plan = self._plan
        if plan is None or rows != plan.rows:
            plan = self._new_plan(rows)
        else:
            self._renew(plan)
            self._network.advance(plan.chosen, plan.tokens)
            self._source.append(plan.chosen, plan.tokens)
        random = plan.random[plan.steps]
        if len(plan.alike) == 1:
            plan.tokens[:] = self._draw(plan.chosen, random, plan.alike[0][0])
        else:
            for how, places in plan.alike:
                plan.tokens[places] = self._draw(plan.chosen[places], random[places], how)
        plan.steps += 1
        drawn: list[int] = plan.tokens.tolist()
        if self._bias is not None:
            for row, token in zip(rows, drawn, strict=True):
                self._histories[row].append(token)
        return drawn

    def next_steps(self, rows: Sequence[int], most: int, first_end: int) -> list[list[int]]:
        plan = self._plan
        can_write = self._network.can_write and self._bias is None and self._source.are_full
        if most == 1 or plan is None or rows != plan.rows or len(plan.alike) > 1 or not can_write:
            return [self.next_tokens(rows)]
        self._renew(plan)
        drawn = self._network.write(
            plan.chosen, plan.tokens, plan.random[plan.steps : plan.steps + most],
            first_end=first_end, **plan.alike[0][0], **self._source.of_write(len(rows)),
        )  # fmt: skip
        plan.tokens[:] = drawn[-1]
        plan.steps += len(drawn)
        steps: list[list[int]] = drawn.tolist()
        return steps

    def _renew(self, plan: _Plan) -> None:
        """Make new random numbers if those of the plan are used."""
        if plan.steps == len(plan.random):
            self._positions[plan.chosen] += plan.steps
            plan.random, plan.steps = self._words(plan.rows, plan.chosen), 0

    def _new_plan(self, rows: Sequence[int]) -> _Plan:
        """Read the newest tokens, and prepare what stays the same while the same rows go on."""
        self._end_plan()
        chosen = np.array(rows, np.int64)
        going = chosen[self._positions[chosen] > 0]
        if len(going):
            newest = self._newest[going]
            self._network.advance(going, newest)
            self._source.append(going, newest)
        alike: dict[tuple[float, int, float], tuple[dict[str, Any], list[int]]] = {}
        for place, row in enumerate(rows):
            how = self._text(row).settings
            key = (how.temperature, how.top_k, how.top_p)
            _, places = alike.setdefault(
                key, (dict(zip(("temperature", "top_k", "top_p"), key, strict=True)), [])
            )
            places.append(place)
        self._plan = _Plan(
            list(rows), chosen, np.empty(len(rows), np.int64), self._words(rows, chosen),
            list(alike.values()),
        )  # fmt: skip
        self._source.prepare(chosen)
        return self._plan

    def _words(
        self, rows: Sequence[int], chosen: NDArray[np.int64]
    ) -> NDArray[np.uint64]:  # (tokens, rows) until a row needs new ones
        columns = self._positions[chosen] % _WORDS
        for place in np.flatnonzero(columns == 0).tolist():
            row, text = rows[place], self._text(rows[place])
            first = int(self._positions[row])
            words = random_block(text.settings, text.sample, 1, first, _WORDS)[:, 0]
            self._random[row, : len(words)] = words
        left = np.arange(_WORDS - int(columns.max()))
        return np.ascontiguousarray(self._random[chosen, columns + left[:, None]])

    def _text(self, row: int) -> TextStart:
        text = self._texts[row]
        assert text is not None
        return text

    def _end_plan(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            self._newest[plan.chosen] = plan.tokens
            self._positions[plan.chosen] += plan.steps

    def _draw(
        self, rows: NDArray[np.int64], random: NDArray[np.uint64], how: dict[str, Any]
    ) -> NDArray[np.int64]:
        if self._bias is None:
            return self._source.draw_rows(rows, random, **how)
        logits = [
            self._bias.apply(self._source.logits(row), self._histories[row])
            for row in rows.tolist()
        ]
        return self._source.draw(np.stack(logits), random, **how)

    def log_probabilities(self, row: int) -> NDArray[np.float64]:
        return log_softmax(self._source.logits(row).astype(np.float64))

    def parts(self, row: int) -> RowParts | None:
        return self._source.parts(row)

    def end(self, row: int) -> None:
        self._end_plan()
        self._texts[row], self._unread[row], self._histories[row] = None, (), []


@dataclass(slots=True)
class _Plan:
    """What stays the same while the same rows go on. Making it costs as much as a small step."""

    rows: list[int]
    chosen: NDArray[np.int64]  # the same as an array
    tokens: NDArray[np.int64]  # the newest of each row
    random: NDArray[np.uint64]  # (tokens, rows) until a row needs more of them
    alike: list[tuple[dict[str, Any], list[int]]]  # settings, and the places of their rows
    steps: int = 0  # drawn with these random numbers


class _OfNetwork(DrawsOnCpu):
    """The draw from the logits of a network."""

    are_full = True  # whether the contexts of the prepared rows have their whole length

    def __init__(self, logits: NDArray[Any], threads: int) -> None:
        self._logits, self.draw_threads = logits, threads
        self.prepare(np.empty(0, np.int64))

    def of_write(self, rows: int) -> dict[str, int]:
        """Return the arguments of RowDecoder.write that say what is drawn from."""
        is_small = rows * self._logits.shape[1] <= ONE_THREAD_LOGITS
        threads = 1 if is_small else self.draw_threads
        return {"mixture": 0, "contexts": 0, "draw_threads": threads}

    def prepare(self, rows: NDArray[np.int64]) -> None:
        """Make what is the same for all tokens of these rows, until others go on."""
        self._chosen = rows
        is_block = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1
        self._place: Any = slice(int(rows[0]), int(rows[-1]) + 1) if is_block else rows

    def begin(self, row: int, context: Sequence[int]) -> None: ...

    def append(self, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> None: ...

    def logits(self, row: int) -> NDArray[Any]:
        row_of_logits: NDArray[Any] = self._logits[row]
        return row_of_logits

    def parts(self, row: int) -> RowParts | None:
        return None

    def draw_rows(
        self, rows: NDArray[np.int64], random: NDArray[np.uint64], **how: Any
    ) -> NDArray[np.int64]:
        return self.draw(self._logits[self._place if rows is self._chosen else rows], random, **how)


class _OfMixture(_OfNetwork):
    """The draw from the mixture of a network and counts; see sampling.mixed.MixedDecoder."""

    def __init__(
        self,
        logits: NDArray[Any],  # (rows, vocab + 1), the last one of the share of the counts
        counts: KneserNey,
        share: Share,
        threads: int,
    ) -> None:
        self._lengths = np.zeros(len(logits), np.int64)
        self._longest = counts.order - 1
        super().__init__(logits, threads)
        self._counts = counts  # kept: it owns the memory that the kernel reads
        self._share = share
        rows, self._vocab = len(logits), counts.vocab_size
        # The context of a row ends with the last column.
        self._contexts = np.zeros((rows, max(self._longest, 1)), np.int64)
        self._words, self._drawn = np.zeros(rows, np.uint64), np.zeros(rows, np.int64)
        # Addresses are made once: they would cost as much as the call.
        self._address = int(self._contexts.ctypes.data)
        self._words_address = int(self._words.ctypes.data)
        self._drawn_address = int(self._drawn.ctypes.data)
        self._sample = kernels().nck_sample_mixture
        self._fields = Mixture(
            ngrams=counts.address, context_stride=self._contexts.shape[1], rows=rows,
            logits=logits.ctypes.data, row_stride=self._vocab + 1, share_scale=share.scale,
            share_offset=share.scale * start_offset(self._vocab) + share.offset,
            dtype=native.DTYPES[logits.dtype.name],
        )  # fmt: skip
        self._fields_address = ctypes.addressof(self._fields)
        assert logits.shape[1] == self._vocab + 1 and logits.flags.c_contiguous

    def prepare(self, rows: NDArray[np.int64]) -> None:
        super().prepare(rows)
        self._chosen_address = int(rows.ctypes.data)
        self.are_full = bool((self._lengths[rows] >= self._longest).all())

    def begin(self, row: int, context: Sequence[int]) -> None:
        recent = context[len(context) - self._longest :] if self._longest else ()
        if len(context) < self._longest:
            recent = context
        self._lengths[row] = len(recent)
        if len(recent):
            self._contexts[row, -len(recent) :] = recent

    def append(self, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        if not self._longest:
            return
        is_prepared = rows is self._chosen
        place = self._place if is_prepared else rows
        self._contexts[place, :-1] = self._contexts[place, 1:]
        self._contexts[place, -1] = ids
        if not (is_prepared and self.are_full):
            self._lengths[place] = np.minimum(self._lengths[place] + 1, self._longest)
            if is_prepared:
                self.are_full = bool((self._lengths[rows] >= self._longest).all())

    def _context(self, length: int) -> int:
        """Return the address of the context of row 0, of this many tokens."""
        return self._address + 8 * (self._contexts.shape[1] - length)

    def logits(self, row: int) -> NDArray[np.float64]:
        fields = Mixture.from_buffer_copy(self._fields)
        fields.context_length = int(self._lengths[row])
        fields.contexts = self._context(fields.context_length) + row * self._contexts.strides[0]
        fields.logits += row * self._logits.strides[0]
        fields.rows = 1
        result = np.empty(self._vocab)
        check(kernels().nck_mixed_logits(ctypes.addressof(fields), result.ctypes.data, 1))
        return result

    def parts(self, row: int) -> RowParts:
        network, log_odds = parts_of_logits(self._logits[row : row + 1], self._share)
        context = self._contexts[row, self._contexts.shape[1] - self._lengths[row] :]
        counts = self._counts.distribution(context)
        return RowParts(np.exp(network[0]), counts, float(share_of_log_odds(log_odds)[0]))

    def draw_rows(
        self, rows: NDArray[np.int64], random: NDArray[np.uint64], **how: Any
    ) -> NDArray[np.int64]:
        """Draw with a call for each length of context: those of new texts are shorter."""
        if rows is self._chosen and self.are_full:
            return self._draw_alike(rows, self._chosen_address, random, self._longest, **how)
        lengths = self._lengths[rows]
        tokens = np.empty(len(rows), np.int64)
        for length in np.unique(lengths).tolist():
            places = np.flatnonzero(lengths == length)
            chosen = rows[places]
            tokens[places] = self._draw_alike(
                chosen, chosen.ctypes.data, random[places], length, **how
            )
        return tokens

    def of_write(self, rows: int) -> dict[str, int]:
        self._fields.context_length, self._fields.contexts = self._longest, self._address
        return {
            "mixture": self._fields_address, "contexts": self._address,
            "draw_threads": self._threads_for(rows),
        }  # fmt: skip

    def _threads_for(self, rows: int) -> int:
        return 1 if rows * (self._vocab + LOOKUP_LOGITS) <= FEW_LOGITS else self.draw_threads

    def _draw_alike(
        self, rows: NDArray[np.int64], address: int, random: NDArray[np.uint64], length: int, *,
        temperature: float, top_k: int, top_p: float,
    ) -> NDArray[np.int64]:  # fmt: skip
        count = len(rows)
        self._words[:count] = random
        self._fields.context_length, self._fields.contexts = length, self._context(length)
        status = self._sample(
            self._fields_address, address, count, self._words_address, temperature,
            top_k, top_p, self._drawn_address, self._threads_for(count),
        )  # fmt: skip
        check(status)
        return self._drawn[:count]
