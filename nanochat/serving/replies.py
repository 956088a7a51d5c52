"""The objects of a reply, in OpenAI's shapes: completions, chat completions, and their chunks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.data.tokenizer import TextStream, Tokenizer
from nanochat.serving.batch import DrawnToken, Part

__all__ = ["DONE", "Reply", "event", "token_record"]

DONE = b"data: [DONE]\n\n"


def event(record: Mapping[str, Any]) -> bytes:
    """Return a server-sent event. It holds whole characters, and no line break of the text."""
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return b"data: " + body.encode() + b"\n\n"


@dataclass(slots=True)
class _Choice:
    stream: TextStream
    pieces: list[str] = field(default_factory=list)
    drawn: list[DrawnToken] = field(default_factory=list)
    length: int = 0  # characters, for the offsets of tokens
    finish_reason: str | None = None
    has_begun: bool = False


class Reply:
    """The reply to one request, whole or in chunks."""

    def __init__(
        self,
        *,
        id: str,
        created: int,  # seconds since 1970
        model: str,
        seed: int,
        tokenizer: Tokenizer,
        is_chat: bool,
        echoes: Sequence[str],  # one per text: what precedes it in the reply
        prompt_tokens: int,
        likeliest: int | None,  # None: no log probabilities
        alternatives: int | None,  # None: no key nanochat
    ) -> None:
        kind = "chat.completion" if is_chat else "text_completion"
        self._head = {"id": id, "object": kind, "created": created, "model": model}
        self._is_chat, self._tokenizer, self._seed = is_chat, tokenizer, seed
        self._likeliest, self._alternatives = likeliest, alternatives
        self._choices = [_Choice(tokenizer.stream()) for _ in echoes]
        self._echoes = list(echoes)
        self._prompt_tokens, self._completion_tokens = prompt_tokens, 0

    @property
    def is_complete(self) -> bool:
        return all(choice.finish_reason for choice in self._choices)

    @property
    def usage(self) -> dict[str, int]:
        read, drawn = self._prompt_tokens, self._completion_tokens
        return {
            "prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn,
        }  # fmt: skip

    def add(self, part: Part) -> None:
        """Keep a part for the whole reply."""
        choice = self._choices[part.text]
        choice.pieces.append(part.piece)
        choice.drawn += part.drawn
        choice.finish_reason = part.finish_reason
        self._completion_tokens += part.tokens

    def whole(self) -> dict[str, Any]:
        """Return the reply of a request that does not stream."""
        choices = []
        for index, (choice, echo) in enumerate(zip(self._choices, self._echoes, strict=True)):
            text = echo + "".join(choice.pieces)
            content: dict[str, Any] = (
                {"message": {"role": "assistant", "content": text, "refusal": None}}
                if self._is_chat
                else {"text": text}
            )
            choices.append(
                {
                    "index": index, **content, "logprobs": self._logprobs(choice, choice.drawn),
                    "finish_reason": choice.finish_reason, **self._own(choice, choice.drawn),
                }
            )  # fmt: skip
        return {**self._head, "choices": choices, "usage": self.usage, "seed": self._seed}

    def chunks(self, part: Part, include_usage: bool) -> list[bytes]:
        """Return the events of a part: the first of a chat's text gives the role alone, the last
        one of a text its finish_reason."""
        choice = self._choices[part.text]
        self._completion_tokens += part.tokens
        choice.finish_reason = part.finish_reason
        events, piece = [], part.piece
        if not choice.has_begun:
            choice.has_begun = True
            piece = self._echoes[part.text] + piece
            if self._is_chat:
                role = {"role": "assistant", "content": "", "refusal": None}
                events.append(self._chunk(part.text, {"delta": role}, None, None, include_usage))
        logprobs = self._logprobs(choice, part.drawn) if part.drawn else None
        own = self._own(choice, part.drawn) if part.drawn else {}
        if self._is_chat:
            if piece or part.drawn:
                delta = {"delta": {"content": piece}, **own}
                events.append(self._chunk(part.text, delta, logprobs, None, include_usage))
            if part.finish_reason:
                events.append(
                    self._chunk(part.text, {"delta": {}}, None, part.finish_reason, include_usage)
                )
        else:
            text = {"text": piece, **own}
            events.append(self._chunk(part.text, text, logprobs, part.finish_reason, include_usage))
        return events

    def usage_chunk(self) -> bytes:
        """Return the last event of a stream with stream_options.include_usage."""
        return event({**self._stream_head, "choices": [], "usage": self.usage})

    @property
    def _stream_head(self) -> dict[str, Any]:
        head: dict[str, Any] = {**self._head, "seed": self._seed}
        if self._is_chat:
            head["object"] = "chat.completion.chunk"
        return head

    def _chunk(
        self,
        index: int,
        content: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None,
        finish_reason: str | None,
        include_usage: bool,
    ) -> bytes:
        choice = {
            "index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason,
        }  # fmt: skip
        usage = {"usage": None} if include_usage else {}
        return event({**self._stream_head, "choices": [choice], **usage})

    # ------------------------------------------------------------------------ log probabilities

    def _logprobs(self, choice: _Choice, drawn: Sequence[DrawnToken]) -> dict[str, Any] | None:
        most = self._likeliest
        if most is None:
            return None
        if self._is_chat:
            return {"content": [self._chat_token(each, most) for each in drawn], "refusal": None}
        texts = [self._tokenizer.token_text(each.token) for each in drawn]
        offsets = []
        for text in texts:
            offsets.append(choice.length)
            choice.length += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [_finite(each.log_probability) for each in drawn],
            "top_logprobs": [
                {
                    self._tokenizer.token_text(token): _finite(log)
                    for token, log in each.likeliest[:most]
                }
                for each in drawn
            ],
            "text_offset": offsets,
        }

    def _chat_token(self, drawn: DrawnToken, most: int) -> dict[str, Any]:
        return {
            **self._token(drawn.token, drawn.log_probability),
            "top_logprobs": [self._token(token, log) for token, log in drawn.likeliest[:most]],
        }

    def _own(self, choice: _Choice, drawn: Sequence[DrawnToken]) -> dict[str, Any]:
        """Return the key nanochat if it was asked for: each token with its alternatives."""
        most = self._alternatives
        if most is None:
            return {}
        tokens = [
            token_record(self._tokenizer, each, choice.stream.push(each.token), most)
            for each in drawn
        ]
        return {"nanochat": {"tokens": tokens}}

    def _token(self, token: int, log: float) -> dict[str, Any]:
        is_whole = "\ufffd" not in self._tokenizer.decode([token])
        text = self._tokenizer.token_text(token)
        raw = list(text.encode()) if is_whole else None
        return {"token": text, "logprob": _finite(log), "bytes": raw}


def token_record(
    tokenizer: Tokenizer,
    drawn: DrawnToken,
    text: str,  # that it adds, "" within a character
    most: int,  # likeliest tokens
) -> dict[str, Any]:
    """Return what the model, its network and its counts said of a token and of the likeliest."""

    def said(token: int, log: float) -> dict[str, Any]:
        apart = (None, None) if drawn.apart is None else drawn.apart.probabilities[token]
        return {
            "token": tokenizer.token_text(token), "id": token, "probability": math.exp(log),
            "network": apart[0], "counts": apart[1],
        }  # fmt: skip

    return {
        **said(drawn.token, drawn.log_probability), "text": text,
        "counts_share": None if drawn.apart is None else drawn.apart.share,
        "likeliest": [said(*other) for other in drawn.likeliest[:most]],
    }  # fmt: skip


def _finite(log: float) -> float:
    """Return a log probability as JSON can hold it: −9999 for that of an impossible token."""
    return max(log, -9999.0)
