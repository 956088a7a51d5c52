"""The loss of every token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanochat.config.options import EvalConfig
from nanochat.data.corpus import text_documents
from nanochat.data.documents import encode_documents, token_stream
from nanochat.runs.load import TrainedModel
from nanochat.training.adapting import score_adaptively
from nanochat.training.scoring import score_documents

__all__ = ["TextLoss", "text_loss"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TextLoss:
    """The loss of a text, token by token. `len`, iteration and NumPy functions use `nats`.

    The tokens are those of the text and, after each document, BOS (id 0), which ends it.
    """

    nats: NDArray[np.float64]  # (tokens,) −log probability of each token
    ids: NDArray[np.int64]  # (tokens,)
    pieces: Sequence[str]  # (tokens,) text of each token; "" for the end of a document
    mean: float  # nats per token; `nanochat eval` prints it as loss
    bpb: float  # bits per byte of the text; the ends of documents do not count
    bytes: int  # of the text, in UTF-8

    def __len__(self) -> int:
        return len(self.nats)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy:
            return np.array(self.nats, dtype=dtype)
        return np.asarray(self.nats, dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        return self.nats[index]

    def __repr__(self) -> str:
        return (
            f"TextLoss({len(self)} tokens, {self.mean:.4f} nats per token, {self.bpb:.4f} bits per"
            " byte)"
        )


def text_loss(trained: TrainedModel, text: str, *, adapt: bool = False) -> TextLoss:
    """Score every token of a text as `nanochat eval` does. Raises CorpusError, TokenizerError."""
    config, tokenizer = trained.config, trained.tokenizer
    texts = text_documents(text, config.documents, config.separator)
    documents = encode_documents(tokenizer, texts)
    if adapt:
        totals, nats = score_adaptively(
            trained.engine, tokenizer.token_bytes, documents, config, trained.adaptive_counts()
        )
    else:
        totals, nats = score_documents(
            trained.engine, tokenizer.token_bytes, documents, batch_size=EvalConfig().batch_size,
            block_size=config.block_size, per_token=True, by_counts=trained.by_counts(documents),
        )  # fmt: skip
    ids = token_stream(documents)[1:].astype(np.int64)
    assert totals.loss is not None  # a text has at least one byte
    assert totals.bpb is not None
    known = {token: tokenizer.token_text(token) for token in np.unique(ids).tolist()}
    return TextLoss(
        nats=nats, ids=ids, pieces=tuple(known[token] for token in ids.tolist()),
        mean=totals.loss, bpb=totals.bpb, bytes=totals.bytes,
    )  # fmt: skip
