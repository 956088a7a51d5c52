"""The clients of bench.serve: a server process, streams with the times of their parts, and abuse.

Streams are read by one asyncio process, which parses them after they have ended: on a machine of
two cores, a client takes time from the server.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.command import module_command, module_environment

__all__ = ["Served", "Stream", "abuse", "streams"]


class Served:
    """A process of `nanochat serve`; `listening_s` counts from its start."""

    def __init__(self, run: Path, *words: str) -> None:
        began = time.perf_counter()
        self.process = subprocess.Popen(
            module_command("nanochat", "serve", run, "--port=0", "--json", "--quiet", *words),
            env=module_environment(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None  # opened above
        line = self.process.stdout.readline()
        self.listening_s = time.perf_counter() - began
        if not line:
            raise SystemExit("error: the server ended before it listened")
        self.port = urlsplit(json.loads(line)["url"]).port

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()

    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that has ended: its text, its tokens, and when its parts came."""

    text: str
    tokens: int
    began_s: float
    parts_s: tuple[float, ...]


def request(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _stream(port: int | None, fields: dict[str, Any]) -> Stream:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began, times, raw = time.perf_counter(), list[float](), bytearray()
    writer.write(request({**fields, "stream": True, "stream_options": {"include_usage": True}}))
    while piece := await reader.read(1 << 16):
        if b"data: {" in piece:
            times.append(time.perf_counter())
        raw += piece
    writer.close()
    lines = bytes(raw).split(b"data: ")[1:]
    events = [json.loads(line.split(b"\n")[0]) for line in lines if line.startswith(b"{")]
    text = "".join(choice["text"] for event in events for choice in event["choices"])
    return Stream(text, events[-1]["usage"]["completion_tokens"], began, tuple(times[:-1]))


def streams(port: int | None, requests: list[dict[str, Any]]) -> tuple[list[Stream], float]:
    """Return the streams of requests that are sent at one time, and the seconds of all."""

    async def run() -> list[Stream]:
        return await asyncio.gather(*(_stream(port, fields) for fields in requests))

    began = time.perf_counter()
    return asyncio.run(run()), time.perf_counter() - began


# ------------------------------------------------------------------------------------------ abuse


async def _hang_up(port: int | None, sent: bytes, reads: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
        if reads:
            await asyncio.wait_for(reader.read(256), 2.0)
    except (OSError, asyncio.TimeoutError):
        pass
    finally:
        writer.close()


async def _client(
    port: int | None, good: list[tuple[dict[str, Any], str]], until_s: float, chance: random.Random
) -> Counter[str]:
    counts: Counter[str] = Counter()
    while time.perf_counter() < until_s:
        kind = chance.choice(["good", "silent", "nonsense", "half", "leaves", "huge", "wrong"])
        try:
            if kind == "good":
                fields, expected = chance.choice(good)
                found = await _stream(port, fields)
                counts["right" if found.text == expected else "false"] += 1
                continue
            sent = {
                "silent": b"",
                "nonsense": chance.randbytes(chance.randrange(1, 4000)),
                "half": request(good[0][0])[: chance.randrange(1, 100)],
                "leaves": request({**good[0][0], "stream": True, "max_tokens": 4096}),
                "huge": request({"prompt": "x" * (2 << 20)}),
                "wrong": request({"prompt": chance.random(), "n": "many"}),
            }[kind]
            await _hang_up(port, sent, reads=chance.random() < 0.5)
            counts[kind] += 1
        except (OSError, IndexError, KeyError, ValueError):
            counts[f"{kind} refused"] += 1  # 429, 503 or a reset of a full server
    return counts


def abuse(
    port: int | None, good: list[tuple[dict[str, Any], str]], clients: int, seconds: float
) -> Counter[str]:
    """Return how often each kind of client came, and whether good requests were answered right."""

    async def run() -> Counter[str]:
        until_s = time.perf_counter() + seconds
        found = await asyncio.gather(
            *(_client(port, good, until_s, random.Random(number)) for number in range(clients))
        )
        return sum(found, Counter())

    return asyncio.run(run())
