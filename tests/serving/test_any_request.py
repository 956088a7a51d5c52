"""Bodies of any shape, generated from a schema: a reply or an error in OpenAI's shape, never 500."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "minLength": 1, "maxLength": 400},
                "type": {"const": "invalid_request_error"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
VALUES: dict[str, Any] = {
    "model": st.sampled_from(["run", "", "other"]),
    "prompt": st.sampled_from(["", "an", "€", "a" * 40, ["a", "b"], ["a", 1]]),
    "messages": st.lists(
        st.fixed_dictionaries({
            "role": st.sampled_from(["user", "system", "tool", 3]),
            "content": st.sampled_from(["hi", None, [{"type": "text", "text": "hi"}], [{}], 5]),
        }), max_size=3,
    ),
    "max_tokens": st.integers(-1, 5),
    "max_completion_tokens": st.integers(-1, 5),
    "temperature": st.sampled_from([0, 0.5, 1, -0.1, 1e300]),
    "top_p": st.sampled_from([0, 0.5, 1, 1.1]),
    "top_k": st.integers(-1, 3),
    "seed": st.sampled_from([0, 1, -1, 2**32 - 1, 2**32, 10**25]),
    "n": st.integers(-1, 70),
    "stop": st.sampled_from(["a", "", ["a", "b"], ["a"] * 17, [None], "\x00"]),
    "stream": st.booleans(),
    "stream_options": st.sampled_from([{}, {"include_usage": True}, {"include_usage": 1}]),
    "logprobs": st.sampled_from([True, False, 0, 2, 9]),
    "top_logprobs": st.sampled_from([0, 2, 99]),
    "echo": st.booleans(),
    "suffix": st.sampled_from(["", "x"]),
    "presence_penalty": st.sampled_from([0, 1, "x"]),
    "frequency_penalty": st.sampled_from([0, 1, "x"]),
    "logit_bias": st.sampled_from([{}, {"1": 1}, []]),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}, {}]),
    "tools": st.sampled_from([[], [{}]]),
    "nanochat": st.sampled_from([{}, {"alternatives": 2}, {"alternatives": 21}, []]),
    "input": st.sampled_from(["an", "anna\nella", "", "\n", "\x00", "a€", "\ud800"]) | st.text(max_size=9),
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
BODIES = st.fixed_dictionaries(
    {},
    optional={name: st.one_of(values, values, JSON) for name, values in VALUES.items()},
)
PATHS = st.sampled_from(["/v1/completions", "/v1/chat/completions", "/v1/score"])


def check(reply: Any) -> None:
    """A reply that is an error has its shape; every other is a completion or a score."""
    if reply.status_code == 200:
        assert b'"choices":' in reply.content or b'"object":"score"' in reply.content
        return
    assert reply.status_code in (400, 404), reply.text
    jsonschema.validate(reply.json(), ERROR)


@given(PATHS, BODIES)
def test_any_fields_get_a_reply_or_an_error_in_shape(server, path, body):
    check(server.client.post(path, content=json.dumps(body).encode()))
    assert server.process.poll() is None


@given(PATHS, JSON | st.binary(max_size=40))
@settings(max_examples=50)
def test_any_body_gets_a_reply_or_an_error_in_shape(server, path, body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    check(server.client.post(path, content=content))
    assert server.process.poll() is None


@given(
    st.lists(
        st.sampled_from([
            b"POST /v1/completions HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"host: localhost\r\n",
            b"content-length: 5\r\n", b"content-length: -1\r\n", b"content-length: 99999999999999999999\r\n",
            b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip\r\n", b"5\r\nhello\r\n",
            b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"\r\n", b"\n", b"\x00", b"\xff\xfe", b"a: b\r\n c\r\n",
            b"expect: 100-continue\r\n", b"upgrade: websocket\r\nconnection: upgrade\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"{}", b"x" * 70_000,
        ]),
        max_size=12,
    )
)  # fmt: skip
def test_any_bytes_are_answered_in_http_and_the_server_goes_on(server, pieces):
    with server.connect() as connection:
        connection.settimeout(5)
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break
        try:
            connection.shutdown(1)
            answer = connection.recv(1 << 16)
        except OSError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert b"HTTP/1.1 500" not in answer
    assert server.client.get("/health").json() == {"status": "ok"}
