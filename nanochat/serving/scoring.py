"""The loss of each token of a text, and what the model expected there, as a client gets them.

A text is read in steps, between which the batch draws tokens of other texts. Each token has the
context that `nanochat eval` gives it: up to rounding, the numbers are those of LanguageModel.loss.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.corpus import text_documents
from nanochat.data.documents import Documents, encode_documents, token_stream
from nanochat.data.packing import split_into_chunks
from nanochat.data.tokenizer import BOS
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.runs.load import TrainedModel
from nanochat.sampling.mixed import log_softmax, parts_of_logits, share_of_log_odds
from nanochat.serving.batch import DrawnToken
from nanochat.serving.replies import token_record
from nanochat.serving.requests import ApiError
from nanochat.serving.rows import RowParts
from nanochat.training.metrics import LossTotals

__all__ = ["score"]

_ROWS = 16  # chunks of the text that are read at one time


def score(
    trained: TrainedModel,
    text: str,
    most_tokens: int,
    alternatives: int | None,  # tokens next to each one; None: the losses alone
) -> Generator[None, None, dict[str, Any]]:
    """Return the tokens of a text with their losses in nats, their mean, and bits per byte.

    Yields between its steps. `text` of a token is what it adds to the text: "" for a part of a
    character and for the end of a document.

    Raises ApiError for a text of more tokens, CorpusError and TokenizerError.
    """
    tokenizer = trained.tokenizer
    texts = text_documents(text, trained.config.documents, trained.config.separator)
    documents = encode_documents(tokenizer, texts)
    if documents.pairs > most_tokens:
        raise ApiError(
            f"input must have at most {most_tokens:,} tokens, got {documents.pairs:,}",
            param="input",
        )
    scored = yield from _scored(trained, documents, alternatives or 0)
    ids = np.array([each.token for each in scored])
    nats = np.array([-each.log_probability for each in scored])
    totals, stream, records = LossTotals(tokenizer.token_bytes), tokenizer.stream(), []
    totals.add(nats, ids)
    for each in scored:
        piece = "" if each.token == BOS else stream.push(each.token)
        record = token_record(tokenizer, each, piece, alternatives or 0)
        if alternatives is None:
            record = {name: record[name] for name in ("token", "id", "text")}
        records.append({**record, "nats": min(-each.log_probability, 9999.0)})
    return {"mean": totals.loss, "bpb": totals.bpb, "bytes": totals.bytes, "tokens": records}


def _scored(
    trained: TrainedModel, documents: Documents, most: int
) -> Generator[None, None, list[DrawnToken]]:
    """Return each token of the documents and their ends, with the `most` likeliest ones."""
    stream = token_stream(documents).astype(np.int64)
    lengths = documents.lengths + 1
    first_of = np.repeat(np.cumsum(lengths) - lengths, lengths)  # pair of the same document
    longest = trained.longest_prompt  # counts alone read whole documents
    chunks = split_into_chunks(lengths, min(longest, documents.pairs))
    found: list[DrawnToken | None] = [None] * documents.pairs
    order = np.argsort(-chunks.lengths, kind="stable")
    for rows in np.split(order, range(_ROWS, len(order), _ROWS)):
        starts, sizes = chunks.starts[rows], chunks.lengths[rows]
        decoder = trained.engine.open_decoder(stream[starts, None].tolist())
        for step in range(int(sizes[0])):
            yield
            live = starts[sizes > step] + step  # their rows come first
            if step:
                ended = len(starts) - len(live)
                decoder.advance([*stream[live].tolist(), *[BOS] * ended])
            contexts = [
                stream[first : pair + 1]
                for first, pair in zip(first_of[live].tolist(), live.tolist(), strict=True)
            ]
            said = _said(trained, decoder.logits[: len(live)], contexts)
            for row, pair in enumerate(live.tolist()):
                found[pair] = said.token(row, int(stream[pair + 1]), most)
    return [each for each in found if each is not None]


@dataclass(frozen=True, slots=True)
class _Said:
    """What the model said of the next tokens of some texts."""

    logs: NDArray[np.float64]  # (rows, vocab) log probabilities
    network: NDArray[np.float64] | None = None  # (rows, vocab) probabilities, of a mixture
    counts: NDArray[np.float64] | None = None  # (rows, vocab)
    share: NDArray[np.float64] | None = None  # (rows,) of the counts

    def token(self, row: int, token: int, most: int) -> DrawnToken:
        parts = None
        if self.network is not None and self.counts is not None and self.share is not None:
            parts = RowParts(self.network[row], self.counts[row], float(self.share[row]))
        return DrawnToken.of(token, self.logs[row], parts, most)


def _said(
    trained: TrainedModel,
    logits: NDArray[Any],  # (rows, vocab), of a network that is mixed with counts one more
    contexts: Sequence[NDArray[np.int64]],  # from the beginning of the document
) -> _Said:
    if not trained.config.ngram_order or trained.config.model_kind == "ngram":
        return _Said(log_softmax(logits.astype(np.float64)))
    if trained.counts is None:
        return _Said(log_softmax(logits[:, :-1].astype(np.float64)))
    network, log_odds = parts_of_logits(logits, trained.engine.share)
    counts = _counted(trained.counts, contexts)
    rest, ours = -np.logaddexp(0.0, log_odds), -np.logaddexp(0.0, -log_odds)
    with np.errstate(divide="ignore"):
        logs = np.logaddexp(rest[:, None] + network, ours[:, None] + np.log(counts))
    return _Said(logs, np.exp(network), counts, share_of_log_odds(log_odds))


def _counted(
    counts: KneserNey, contexts: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:  # (contexts, vocab)
    longest = counts.order - 1
    return counts.distributions([each[max(len(each) - longest, 0) :] for each in contexts])
