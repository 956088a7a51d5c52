"""The loss of each token of a text, as a client gets it. How it is computed: api/text_loss.py."""

from __future__ import annotations

from typing import Any

from nanochat.api.text_loss import text_loss
from nanochat.data.corpus import text_documents
from nanochat.data.documents import encode_documents
from nanochat.data.tokenizer import BOS
from nanochat.runs.load import TrainedModel
from nanochat.serving.requests import ApiError

__all__ = ["score"]


def score(trained: TrainedModel, text: str, most_tokens: int) -> dict[str, Any]:
    """Return the tokens of a text with their losses in nats, their mean, and bits per byte.

    The numbers are those of LanguageModel.loss. `text` of a token is what it adds to the text: ""
    for a part of a character and for the end of a document.

    Raises ApiError for a text of more tokens, CorpusError and TokenizerError.
    """
    texts = text_documents(text, trained.config.documents, trained.config.separator)
    count = encode_documents(trained.tokenizer, texts).pairs
    if count > most_tokens:
        raise ApiError(
            f"input must have at most {most_tokens:,} tokens, got {count:,}", param="input"
        )
    loss, stream, tokens = text_loss(trained, text), trained.tokenizer.stream(), []
    for token, label, nats in zip(loss.ids.tolist(), loss.pieces, loss.nats.tolist(), strict=True):
        piece = "" if token == BOS else stream.push(token)
        tokens.append({"token": label, "id": token, "text": piece, "nats": min(nats, 9999.0)})
    return {"mean": loss.mean, "bpb": loss.bpb, "bytes": loss.bytes, "tokens": tokens}
