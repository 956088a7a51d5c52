"""Clients that go away, send too much, too slowly or too many at once; and the end of the server."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from nonempty import nonempty
from serving.server import (
    WAIT_S,
    body_of,
    error,
    read_all,
    request,
    status_of,
    until,
)

import nanochat

UNENDING = ("--max-tokens=16777216", "--max-rows=4", "--max-queue=2")


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A run on one long document: its texts end only after max_tokens."""
    folder = tmp_path_factory.mktemp("endless")
    (folder / "text.txt").write_text("the cat sat on the mat. " * 200, encoding="utf-8")
    config = nanochat.TrainConfig(
        mode="tensor", device="cpu", data=str(folder / "text.txt"), documents="file",
        model_kind="mini-gpt", positions="rope", n_layer=1, n_head=2, n_embd=16, block_size=16,
        batch_size=4, steps=40, num_samples=0, ngram_order=0, out=str(folder / "run"),
    )  # fmt: skip
    return nanochat.train(config).run


@pytest.fixture(scope="module")
def unending(start, endless):
    return start(endless, *UNENDING)


def endless_request(stream: bool, n: int = 3) -> bytes:
    body = '{"prompt": "t", "max_tokens": 16777216, "temperature": 0, "n": %d, "stream": %s}'
    return request((body % (n, str(stream).lower())).encode())


# -------------------------------------------------------------------------------- clients that go


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_rows(stream, unending):
    gone = unending.stat("clients_gone_total")
    with unending.connect() as connection:
        connection.sendall(endless_request(stream))
        assert until(lambda: unending.stat("texts_active") == 3)
    assert until(lambda: unending.stat("texts_active") == 0)
    assert unending.stat("clients_gone_total") == gone + 1
    assert unending.stat("texts_waiting") == 0


def test_a_client_that_goes_away_while_it_waits_is_forgotten(unending):
    with unending.connect() as first, unending.connect() as second:
        first.sendall(endless_request(True, n=4))
        assert until(lambda: unending.stat("texts_active") == 4)
        second.sendall(endless_request(True, n=2))
        assert until(lambda: unending.stat("texts_waiting") == 2)
        second.close()
        assert until(lambda: unending.stat("texts_waiting") == 0)
        assert unending.stat("texts_active") == 4
    assert until(lambda: unending.stat("texts_active") == 0)


def test_a_client_that_breaks_http_during_its_reply_frees_its_rows(unending):
    with unending.connect() as connection:
        connection.sendall(endless_request(True))
        assert until(lambda: unending.stat("texts_active") == 3)
        connection.sendall(b"GET \x00 nonsense\r\n\r\n" * 3)
        assert until(lambda: unending.stat("texts_active") in (0, 3))
    assert until(lambda: unending.stat("texts_active") == 0)


# ----------------------------------------------------------------------------------------- limits


def test_more_texts_than_may_wait_are_refused_with_429(unending):
    with unending.connect() as first, unending.connect() as second:
        first.sendall(endless_request(True, n=4))
        assert until(lambda: unending.stat("texts_active") == 4)
        second.sendall(endless_request(True, n=2))
        assert until(lambda: unending.stat("texts_waiting") == 2)
        reply = unending.post(prompt="t", max_tokens=1)
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
        assert reply.json() == error(
            "too many requests wait; ask again later", type="rate_limit_error",
            code="rate_limit_exceeded",
        )  # fmt: skip
    assert until(lambda: unending.stat("texts_active") == 0)
    assert unending.post(prompt="t", max_tokens=1).status_code == 200


def test_a_reply_that_takes_too_long_ends_with_an_error(start, endless):
    server = start(endless, "--max-tokens=16777216", "--max-time=0.5")
    fields = {"prompt": "t", "max_tokens": 16777216, "temperature": 0}
    message = "the reply took longer than 0.5 seconds; ask for fewer tokens"
    expected = error(message, type="server_error", code="timeout")
    whole = server.post(**fields)
    assert (whole.status_code, whole.json()) == (503, expected)
    *parts, last = server.events(**fields)
    assert last == expected
    text = "".join(part["choices"][0]["text"] for part in nonempty(parts))
    model = nanochat.load(endless)
    assert text == model.generate("t", temperature=0, max_new_tokens=len(text))[1:]
    assert until(lambda: server.stat("texts_active") == 0)


@pytest.fixture(scope="module")
def frugal(start, names):
    """A server that reads the rest of a body that is too large for a quarter of a second."""
    code = (
        "import sys\nfrom nanochat.cli import main\nfrom nanochat.serving import app\n"
        "app._DISCARD_S = 0.25\nsys.exit(main(sys.argv[1:]))\n"
    )
    return start(names, "--max-body=4", code=code)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(chunked, frugal):
    server = frugal
    body = b'{"prompt": "' + b"a" * 5000 + b'"}'
    expected = error("the body must be at most 4,096 bytes", code="request_too_large")
    content = iter([body[:3000], body[3000:]]) if chunked else body
    reply = httpx.post(f"{server.url}/v1/completions", content=content, timeout=WAIT_S)
    assert (reply.status_code, reply.json()) == (413, expected)
    huge = (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999999\r\n\r\n"
    )
    answer = server.raw(huge, *[b"x" * 65536] * 100)
    assert (status_of(answer), body_of(answer)) == (413, expected)


def test_slow_clients_are_ended_and_hold_up_no_one(start, names):
    """The clock of the server runs faster: ten seconds of patience are a quarter of one."""
    code = (
        "import sys\nfrom nanochat.cli import main\nfrom nanochat.serving import app, server\n"
        "app._BODY_S = server._HEADERS_S = 0.25\nsys.exit(main(sys.argv[1:]))\n"
    )
    server = start(names, code=code)
    for begun in (b"", b"POST /v1/comp", b"GET / HTTP/1.1\r\nhost: loc"):
        answer = server.raw(begun)
        assert status_of(answer) == 408
        assert body_of(answer) == error("the head of a request must arrive within 0.25 seconds")
    half = request(b'{"prompt": "a"}')[:-5]
    answer = server.raw(half)
    assert status_of(answer) == 408
    assert body_of(answer) == error("the body must arrive within 0.25 seconds")
    with server.connect() as kept:  # the second request of a connection, byte by byte
        kept.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
        kept.sendall(b"GET /hea")
        assert status_of(read_all(kept)) == 408
    assert server.text(prompt="an", seed=1, max_tokens=1) != "?"


def test_a_client_that_does_not_read_is_ended(start, endless):
    code = (
        "import sys\nfrom nanochat.cli import main\nfrom nanochat.serving import server\n"
        "server._STALLED_S = 0.25\nsys.exit(main(sys.argv[1:]))\n"
    )
    server = start(endless, *UNENDING, code=code)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(endless_request(True))
        assert until(lambda: server.stat("texts_active") == 3)
        assert until(lambda: server.stat("texts_active") == 0)
    assert server.stat("clients_gone_total") == 1


def test_connections_beyond_the_limit_of_files_get_503(start, names):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        f"import resource, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, (164, {hard}))\n"
        "from nanochat.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    assert soft >= 512  # of this process
    server = start(names, code=code)
    server.client.close()
    opened = [server.connect() for _ in range(100)]
    answer = server.raw()
    assert status_of(answer) == 503
    assert body_of(answer) == error(
        "too many connections; connect again later", type="server_error",
        code="too_many_connections",
    )  # fmt: skip
    flood = [server.connect() for _ in range(150)]
    for connection in (*opened, *flood):
        connection.close()
    with httpx.Client(base_url=server.url, timeout=WAIT_S) as client:
        assert until(lambda: client.get("/health").status_code == 200)
    server.signal()
    assert server.wait() == (0, server_notes())


HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


def connect_often(server, count):
    """Connect, send nothing, a part of a request or all of it, and go."""
    for number in range(count):
        with server.connect() as connection:
            if number % 2:
                connection.sendall(HEALTH[: number % (len(HEALTH) + 1)])


def files(server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def resident_bytes(server) -> int:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def test_many_connections_one_after_another_leave_nothing_behind(server):
    server.client.get("/health")
    before = files(server)
    connect_often(server, 500)
    assert until(lambda: files(server) <= before)


@pytest.mark.long
def test_ten_thousand_connections_leave_neither_files_nor_memory_behind(start, names):
    server = start(names)
    expected = server.text(prompt="an", seed=1)
    connect_often(server, 2000)  # what is made once
    before = files(server), resident_bytes(server)
    connect_often(server, 10_000)
    assert until(lambda: files(server) <= before[0])
    assert resident_bytes(server) - before[1] < 4 << 20
    assert server.text(prompt="an", seed=1) == expected


@pytest.mark.long
def test_as_many_clients_as_the_limit_of_files_allows_are_served_and_more_get_503(start, names):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = (20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000)) - 200
    code = (
        "import resource, sys\nfrom nanochat.cli import main\nfrom nanochat.serving import server\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "server._KEEP_ALIVE_S = 600\nsys.exit(main(sys.argv[1:]))\n"
    )
    server = start(names, code=code)
    expected = server.text(prompt="an", seed=1)
    server.client.close()
    with ExitStack() as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit + 200, hard))  # of this process
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        assert until(lambda: files(server) < 64)
        idle = files(server)
        held = []
        for _ in range(limit - 64):
            held.append(opened.enter_context(server.connect()))
            held[-1].sendall(HEALTH)
            assert held[-1].recv(1 << 12).startswith(b"HTTP/1.1 200 OK")
        for _ in range(3):
            answer = server.raw()
            assert status_of(answer) == 503
            assert body_of(answer)["error"]["code"] == "too_many_connections"
        for connection in nonempty(held[::500]):  # those that are connected go on
            connection.sendall(request(b'{"prompt": "an", "seed": 1}'))
            assert body_of(read_all(connection))["choices"][0]["text"] == expected
    assert until(lambda: files(server) <= idle)


# ---------------------------------------------------------------------------------------- headers


def test_headers_cannot_be_injected(server):
    """Nothing that a client sends appears in the head of the answer."""
    for sent in (
        request(b"{}", "/v1/models/a%0d%0aset-cookie:%20a=b"),
        request(b"{}", "/x%0d%0ax-evil:%201"),
        request(b'{"model": "a\\r\\nx-evil: 1"}'),
        request(b"{}", "/v1/completions", "x-evil: 1\r\n x-evil2: 2"),
        request(b"{}", "/v1/completions", "origin: http://localhost\r\nx-evil: 1"),
    ):
        head = server.raw(sent).partition(b"\r\n\r\n")[0].lower()
        names = {line.split(b":")[0] for line in head.split(b"\r\n")[1:]}
        allowed = {b"date", b"content-length", b"content-type", b"connection", b"allow"}
        assert names <= allowed | {b"transfer-encoding"}, head


def test_what_is_not_http_is_refused_in_shape(server):
    for sent in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"a b c d\r\n\r\n", b"x" * 100_000):
        answer = server.raw(sent)
        assert status_of(answer) == 400
        assert body_of(answer) == error("the request is not HTTP/1.1")


# ---------------------------------------------------------------------------------------- the end


def server_notes() -> str:
    """What a server writes to stderr that had nothing to finish."""
    return ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_idle_server(number, start, names):
    server = start(names)
    with server.connect():  # a client that says nothing does not hold it up
        server.signal(number)
        assert server.wait() == (0, server_notes())


def test_a_signal_finishes_what_runs_and_refuses_what_comes(start, endless):
    server = start(endless, "--max-tokens=16777216")
    model = nanochat.load(endless)
    with server.connect() as running, server.connect() as waiting:
        body = b'{"prompt": "t", "max_tokens": 100000, "temperature": 0}'
        running.sendall(request(body))
        assert until(lambda: server.stat("texts_active") == 1)
        kept = httpx.Client(base_url=server.url, timeout=WAIT_S)
        assert kept.get("/health").status_code == 200
        server.signal()
        assert until(lambda: kept.get("/health").status_code == 503)
        waiting.sendall(request(b'{"prompt": "t"}'))
        refused = read_all(waiting)
        assert status_of(refused) == 503
        assert body_of(refused) == error(
            "the server is stopping; ask again later", type="server_error", code="stopping"
        )
        answer = read_all(running)
        kept.close()
    assert status_of(answer) == 200
    text = body_of(answer)["choices"][0]["text"]
    assert text == model.generate("t", max_new_tokens=100_000, temperature=0)[1:]
    assert body_of(answer)["usage"]["completion_tokens"] == 100_000
    assert server.wait() == (0, "finishing what runs; a second signal ends at once\n")


def test_a_second_signal_ends_at_once(start, endless):
    server = start(endless, "--max-tokens=16777216")
    with server.connect() as connection:
        connection.sendall(endless_request(True))
        assert until(lambda: server.stat("texts_active") == 3)
        server.signal()
        time.sleep(0.5)
        server.signal()
        code, err = server.wait()
    assert code == 128 + signal.SIGTERM
    assert re.fullmatch(r"finishing what runs; .*\ninterrupted by SIGTERM\n", err)
