"""A server process as tests use it: its address, plain sockets, requests, and its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

TEXT = "anna\nbob\ncarl\ndora\nemma\nfred\nada\nbea\ncleo\ndan\nella\nfay\n" * 3

# A program whose run has conversations, as far as the server can tell: the prompt of the model is
# the last message.
CHATTING = """
import sys
from nanochat.cli import main
from nanochat.sampling.generate import prompt_tokens
from nanochat.serving import conversation

def tokens(trained, messages):
    assert all(each.role in ("system", "user", "assistant") for each in messages)
    start = trained.checkpoint.data["start"]
    return prompt_tokens(trained.tokenizer, messages[-1].content, start, trained.longest_prompt)

conversation.conversation_tokens = tokens
conversation.takes_conversations = lambda trained: True
sys.exit(main(sys.argv[1:]))
"""
KEY = "s3cret"  # of the server `keyed`
WAIT_S = 60.0  # for whatever must happen; a busy machine takes long


class Server:
    """`nanochat serve`, which has written its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        ready = json.loads(line)
        self.url, self.model = ready["url"], ready["model"]
        self.port = urlsplit(self.url).port
        self.client = httpx.Client(base_url=self.url, timeout=WAIT_S)

    def post(self, path: str = "/v1/completions", **fields: Any) -> httpx.Response:
        return self.client.post(path, json=fields)

    def text(self, **fields: Any) -> str:
        """The text of a completion."""
        reply = self.post(**fields)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["text"]

    def events(self, path: str = "/v1/completions", **fields: Any) -> list[Any]:
        """The events of a stream, each parsed, without the last, which must be [DONE]."""
        with self.client.stream("POST", path, json={"stream": True, **fields}) as reply:
            assert reply.status_code == 200
            assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
            raw = b"".join(reply.iter_raw()).decode()
        *events, done, rest = raw.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(each.removeprefix("data: ")) for each in events]

    def stat(self, name: str) -> float:
        """A figure of /stats, by its name without `nanochat_`."""
        lines = self.client.get("/stats").text.splitlines()
        (found,) = [line for line in lines if line.startswith(f"nanochat_{name} ")]
        return float(found.split(" ")[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def raw(self, *pieces: bytes) -> bytes:
        """What the server answers to these bytes until it closes the connection."""
        with self.connect() as connection:
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break  # it has answered before the end
            return read_all(connection)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """The exit code and stderr of a server that ends."""
        _, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, err

    def end(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=WAIT_S)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            return found
        if not piece:
            return found
        found += piece


def request(body: bytes, path: str = "/v1/completions", *headers: str) -> bytes:
    """A request as bytes, after which the connection closes."""
    lines = [
        f"POST {path} HTTP/1.1", "host: localhost", "connection: close",
        f"content-length: {len(body)}", *headers,
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition; return whether it came."""
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def error(message: str, **fields: Any) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        | fields
    }
