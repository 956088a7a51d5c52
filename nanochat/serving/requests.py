"""What clients may ask for: the fields of a request, their checks, and the errors that they get.

The shapes are those of OpenAI's API. A field that is unknown has no effect; one that would change
the text in a way that this server cannot is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.config.option import shown
from nanochat.config.options import SampleConfig, options_of
from nanochat.sampling.sampling import SamplingSettings
from nanochat.system.json_text import parse_json

__all__ = [
    "ApiError",
    "ChatRequest",
    "CompletionRequest",
    "Limits",
    "Message",
    "Request",
    "ScoreRequest",
]

ROLES = ("system", "user", "assistant")
_ROLES = {**{role: role for role in ROLES}, "developer": "system"}
_MOST_LIKELIEST, _MOST_TOP_LOGPROBS, _MOST_STOPS = 5, 20, 16
_SAMPLE = options_of(SampleConfig)


class ApiError(Exception):
    """An error that a client gets, in OpenAI's shape."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that one request may ask for."""

    tokens: int  # per text
    texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The fields that completions and chat completions share."""

    model: str | None
    n: int
    settings: SamplingSettings
    stream: bool
    include_usage: bool
    likeliest: int | None  # None: no log probabilities
    alternatives: int | None  # tokens next to each one under the key nanochat; None: no such key


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest(Request):
    """The body of /v1/completions."""

    prompts: tuple[str, ...]
    echo: bool

    @classmethod
    def parse(cls, body: bytes, limits: Limits) -> CompletionRequest:
        """Raises ApiError."""
        fields = _fields(body)
        prompts = _prompts(fields.get("prompt"))
        echo = fields.boolean("echo")
        likeliest = fields.whole("logprobs", 0, _MOST_LIKELIEST)
        if echo and likeliest is not None:
            raise ApiError("echo has no log probabilities; leave logprobs out", param="echo")
        if fields.get("suffix"):
            raise _not_offered("suffix")
        shared = _shared(fields, limits, texts=len(prompts), most_tokens=("max_tokens",))
        return cls(**shared, likeliest=likeliest, prompts=prompts, echo=echo)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest(Request):
    """The body of /v1/chat/completions."""

    messages: tuple[Message, ...]

    @classmethod
    def parse(cls, body: bytes, limits: Limits) -> ChatRequest:
        """Raises ApiError."""
        fields = _fields(body)
        messages = _messages(fields.get("messages"))
        top = fields.whole("top_logprobs", 0, _MOST_TOP_LOGPROBS)
        wanted = fields.boolean("logprobs")
        if top is not None and not wanted:
            raise ApiError("top_logprobs needs logprobs true", param="top_logprobs")
        for name in ("tools", "functions"):
            if fields.get(name):
                raise _not_offered(name)
        shared = _shared(
            fields, limits, texts=1, most_tokens=("max_completion_tokens", "max_tokens")
        )
        return cls(**shared, likeliest=(top or 0) if wanted else None, messages=messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """The body of /v1/score."""

    model: str | None
    text: str
    alternatives: int | None  # tokens next to each one; None: the losses alone

    @classmethod
    def parse(cls, body: bytes) -> ScoreRequest:
        """Raises ApiError."""
        fields = _fields(body)
        model = fields.checked("model", "text", lambda value: isinstance(value, str))
        text = fields.get("input")
        if not _is_text(text):
            raise _wrong("input", "Unicode text", text)
        return cls(model=model, text=text, alternatives=_alternatives(fields))


# ------------------------------------------------------------------------------------- the fields


class _Fields:
    """The fields of a body. null means that a field was not given."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def get(self, name: str) -> Any:
        return self._given.get(name)

    def checked(
        self, name: str, rule: str, accepts: Callable[[Any], bool], inside: str = ""
    ) -> Any:
        """Return a field, or None without it. Raises ApiError if it breaks the rule."""
        value = self._given.get(name)
        if value is not None and not accepts(value):
            raise _wrong(inside + name, rule, value)
        return value

    def boolean(self, name: str) -> bool:
        return bool(self.checked(name, "true or false", lambda value: isinstance(value, bool)))

    def whole(self, name: str, low: int, high: int, *, inside: str = "") -> int | None:
        found: int | None = self.checked(
            name,
            f"a whole number from {low} to {high}",
            lambda value: (
                isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
            ),
            inside,
        )
        return found

    def option(self, name: str) -> Any:
        """Return a field that is an option of `nanochat sample`, or the option's default."""
        value, option = self._given.get(name), _SAMPLE[name]
        if value is None:
            return option.default
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not option.accepts(value):
            raise ApiError(option.refusal(name, value), param=name)
        return option.kind(value)


def _fields(body: bytes) -> _Fields:
    try:
        given = parse_json(body)
    except ValueError as error:
        raise ApiError(f"the body {error}") from None
    if not isinstance(given, dict):
        raise ApiError(f"the body must be a JSON object, got {_type(given)}")
    return _Fields(given)


def _shared(
    fields: _Fields, limits: Limits, *, texts: int, most_tokens: Sequence[str]
) -> dict[str, Any]:
    """Return the fields of Request except `likeliest`."""
    model = fields.checked("model", "text", lambda value: isinstance(value, str))
    n = fields.whole("n", 1, limits.texts)
    n = 1 if n is None else n
    if n * texts > limits.texts:
        raise ApiError(
            f"n times the number of prompts must be at most {limits.texts}, got {n * texts}",
            param="n",
        )
    asked = [fields.whole(name, 1, limits.tokens) for name in most_tokens]
    default = min(_SAMPLE["max_new_tokens"].default, limits.tokens)
    seed = fields.get("seed")
    settings = SamplingSettings(
        temperature=fields.option("temperature"),
        top_k=fields.option("top_k"),
        top_p=fields.option("top_p"),
        max_new_tokens=next((number for number in asked if number is not None), default),
        seed=secrets.randbits(31) if seed is None else fields.option("seed"),
        stop=_stops(fields.get("stop")),
    )
    _refuse_what_is_not_offered(fields)
    stream = fields.boolean("stream")
    return {
        "model": model, "n": n, "settings": settings, "stream": stream,
        "include_usage": _include_usage(fields, stream),
        "alternatives": _alternatives(fields),
    }  # fmt: skip


def _alternatives(fields: _Fields) -> int | None:
    own = _Fields(fields.checked("nanochat", "an object", lambda v: isinstance(v, dict)) or {})
    return own.whole("alternatives", 0, _MOST_TOP_LOGPROBS, inside="nanochat.")


def _refuse_what_is_not_offered(fields: _Fields) -> None:
    """Raise ApiError for a field with an effect on the text that this server does not have."""
    for name in ("presence_penalty", "frequency_penalty"):
        number = fields.checked(
            name, "a number", lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)
        )
        if number:
            raise _not_offered(name)
    if fields.checked("logit_bias", "an object", lambda value: isinstance(value, dict)):
        raise _not_offered("logit_bias")
    form = fields.checked("response_format", "an object", lambda value: isinstance(value, dict))
    if form and form.get("type") != "text":
        raise _not_offered("response_format")


def _include_usage(fields: _Fields, stream: bool) -> bool:
    options = fields.checked("stream_options", "an object", lambda value: isinstance(value, dict))
    if options is None:
        return False
    if not stream:
        raise ApiError("stream_options needs stream true", param="stream_options")
    wanted = options.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        raise _wrong("stream_options.include_usage", "true or false", wanted)
    return bool(wanted)


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    rule = f"text or a list of up to {_MOST_STOPS} texts, none of them empty"
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS:
        raise _wrong("stop", rule, value)
    for number, stop in enumerate(stops):
        if not _is_text(stop) or not stop:
            raise _wrong("stop" if stops[number] is value else f"stop[{number}]", rule, stop)
    return tuple(stops)


def _prompts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ("",)
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not prompts:
        raise _wrong("prompt", "text or a list of texts", value)
    for number, prompt in enumerate(prompts):
        if not _is_text(prompt):
            name = "prompt" if prompt is value else f"prompt[{number}]"
            raise _wrong(name, "Unicode text", prompt)
    return tuple(prompts)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _wrong("messages", "a list of at least one message", value)
    return tuple(_message(f"messages[{number}]", each) for number, each in enumerate(value))


def _message(name: str, value: Any) -> Message:
    if not isinstance(value, dict):
        raise _wrong(name, "an object with role and content", value)
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{name}.role", f"one of {', '.join(ROLES)}", role)
    content = value.get("content")
    if isinstance(content, list):
        parts = [_part(f"{name}.content[{number}]", each) for number, each in enumerate(content)]
        return Message(role=_ROLES[role], content="".join(parts))
    if not isinstance(content, str) or not _is_text(content):
        raise _wrong(f"{name}.content", "text or a list of parts of type text", content)
    return Message(role=_ROLES[role], content=content)


def _part(name: str, value: Any) -> str:
    is_part = isinstance(value, dict) and value.get("type") in ("text", "input_text")
    if not is_part or not _is_text(value.get("text")):
        raise _wrong(name, 'a part {"type": "text", "text": …}', value)
    text: str = value["text"]
    return text


def _is_text(value: Any) -> bool:
    """Whether a value is text that UTF-8 can hold: JSON may escape half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(name: str, rule: str, value: Any) -> ApiError:
    got = "nothing" if value is None else shown(value) if _is_plain(value) else _type(value)
    return ApiError(f"{name} must be {rule}, got {got}", param=name)


def _not_offered(name: str) -> ApiError:
    return ApiError(f"{name} is not offered by this server; leave it out", param=name)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
