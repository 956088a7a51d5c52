"""The server process: its socket, its connections and their limits, and how it ends.

Owns what happens before a request is complete and after a signal. Leaves out what is answered
(app.py).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanochat.errors import ConfigError
from nanochat.serving.app import Api
from nanochat.serving.requests import ApiError

__all__ = ["check_no_event_loop", "is_loopback", "listening_socket", "serve_until_signal"]

_SPARE_DESCRIPTORS = 64  # for files, the refusal of connections, and what Python opens
# Connections are counted some rounds after they were accepted. More wait in the system.
_ACCEPTED_AT_ONCE, _BACKLOG = 8, 1024
_HEADERS_S = 10.0  # for a client to send the head of a request
_KEEP_ALIVE_S = 30  # between two requests of one connection
_STALLED_S = 30.0  # for a client to read a part of its reply
_CLOSE_S = 5.0  # for the last bytes to a client that is refused
_MOST_HEAD_BYTES = 64 * 1024
_SEND_BYTES = 128 * 1024  # that the system keeps for a client that does not read
_SWITCH_S = 0.0001  # the thread of the batch waits at most this long for the one of the server


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_no_event_loop() -> None:
    """Raise ConfigError in a thread whose event loop runs, as that of a notebook does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        "serve needs a thread without a running event loop, and a notebook has one; run it in"
        " threading.Thread(target=nanochat.serve, args=(config,), daemon=True)"
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen yet. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"host {host} cannot be found: {reason}; give an address") from None
    bound = None
    try:
        bound = socket.socket(family, kind, protocol)  # refused without IPv6
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"host {host} is not an address of this machine; give one such as 127.0.0.1"
            ) from None
        raise ConfigError(
            f"port {port} of {host} cannot be used: {error.strerror or error}; give another with"
            " --port, or 0 for a free one"
        ) from None
    return bound


def serve_until_signal(
    api: Api, bound: socket.socket, *, on_listening: Callable[[], None], note: Callable[[str], None]
) -> None:
    """Answer requests until SIGINT, SIGTERM or SIGHUP, then finish what runs and refuse what comes.

    A second signal ends at once. Only the main thread gets signals.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)  # clients cause these lines
    config = uvicorn.Config(
        api.app(), loop="asyncio", http=_Connection, ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(_CLOSE_S), h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        proxy_headers=False, backlog=_ACCEPTED_AT_ONCE,
    )  # fmt: skip
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        _Server(config, api, on_listening, note).run(sockets=[bound])
    finally:
        sys.setswitchinterval(before)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        api: Api,
        on_listening: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        super().__init__(config)
        self._api, self._on_listening, self._note = api, on_listening, note

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_BACKLOG)
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self._note(f"the server goes on after: {context['message']}")
        )
        self._on_listening()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP too, unless nohup has it ignored: uvicorn would drop its interrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with super().capture_signals():
            before = signal.getsignal(signal.SIGHUP)
            if before not in (signal.SIG_IGN, None):
                signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A terminal that closes may send SIGHUP twice.
        if self._api.is_draining and sig != signal.SIGHUP:
            self.force_exit = self.should_exit = True
            self._captured_signals.append(sig)  # raised again at the end
        self._api.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if self._api.is_draining and self._api.running:
            if not self._has_told:
                self._has_told = True
                self._note("finishing what runs; a second signal ends at once")
            return False
        return self._api.is_draining

    _has_told = False


class _Connection(H11Protocol):
    """A connection that ends when its client is too slow, and refuses above the limit."""

    _timer: asyncio.TimerHandle | None = None  # until the head of a request is complete
    _stalled: asyncio.TimerHandle | None = None  # while the client does not read
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        opened: socket.socket = transport.get_extra_info("socket")
        with suppress(OSError):  # the client has gone already
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        above = len(self.connections) - _most_connections()
        if above > _SPARE_DESCRIPTORS // 4:
            self._is_refused = True
            transport.abort()
            return
        if above > 0:
            self._refuse(
                ApiError("too many connections; connect again later", status=503,
                         kind="server_error", code="too_many_connections")
            )  # fmt: skip
            return
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(_STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_soon()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError("the request is not HTTP/1.1"))

    def _watch_head(self) -> None:
        """Give a client that has begun no request the time to send its head."""
        answers = self.cycle is not None and not self.cycle.response_complete
        if answers or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEADERS_S, self._on_slow_head)

    def _on_slow_head(self) -> None:
        if not self.transport.is_closing():
            self._refuse(
                ApiError(
                    f"the head of a request must arrive within {_HEADERS_S:g} seconds", status=408
                )
            )

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close."""
        if self.cycle is not None:  # a reply to an earlier request, which ends with the connection
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_response(error.status, error.body))
        with suppress(OSError):  # the client has gone meanwhile
            self.transport.write_eof()
        # The client may still be sending: closing at once could destroy the reply on its way.
        self._is_refused = True
        self.loop.call_later(0.5, self.transport.close)
        self._abort_soon()

    def _abort_soon(self) -> None:
        """End a connection whose client does not read the last bytes."""
        self.loop.call_later(_CLOSE_S, self.transport.abort)


def _most_connections() -> int:
    """Return the limit of open files, less those that the server needs itself."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(soft - _SPARE_DESCRIPTORS, 1)


def _response(status: int, record: dict[str, Any]) -> bytes:
    body = json.dumps(record).encode()
    names = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}
    head = (
        f"HTTP/1.1 {status} {names[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
