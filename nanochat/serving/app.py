"""The HTTP API: which path answers what, and who may ask.

Owns the way of a request from its body to its last byte. Leaves out the connections and signals
(server.py), the fields (requests.py), the shapes of replies (replies.py) and the texts (batch.py).
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.config.options import ServeConfig
from nanochat.errors import NanochatError
from nanochat.runs.load import TrainedModel
from nanochat.sampling.generate import prompt_tokens
from nanochat.serving import conversation
from nanochat.serving.batch import Batch, Part, Texts
from nanochat.serving.page import page_headers, page_text
from nanochat.serving.replies import DONE, Reply, event
from nanochat.serving.requests import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    Limits,
    Request,
    ScoreRequest,
)
from nanochat.serving.rows import TextStart
from nanochat.serving.scoring import score
from nanochat.serving.stats import Stats

__all__ = ["LOOPBACK_NAMES", "Api"]

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
_BODY_S = 30.0  # for a client to send its body
_DISCARD_S = 2.0  # for the rest of a body that is too large
_OPEN_PATHS = ("/", "/health")  # without an API key


class Api:
    """The routes of one served model, and what they share."""

    def __init__(
        self, config: ServeConfig, trained: TrainedModel, batch: Batch, warn: Callable[[str], None]
    ) -> None:
        self._config, self._trained, self._batch, self._warn = config, trained, batch, warn
        self._checkpoint = trained.checkpoint
        self.model = self._checkpoint.run_folder.name
        self._created = int(self._checkpoint.path.stat().st_mtime)
        self._limits = Limits(tokens=config.max_tokens, texts=config.max_rows)
        self._stats = Stats()
        self._page_text = page_text(config, trained)
        self.is_draining = False  # finishes what runs and refuses what comes
        self.running = 0  # replies that are being written
        self.max_time = float(config.max_time)  # seconds per reply

    def app(self) -> ASGIApp:
        """Return the application, with the checks that precede every path."""
        routes = [
            Route("/", self._page),
            Route("/health", self._health),
            Route("/stats", self._show_stats),
            Route("/v1/models", self._models),
            Route("/v1/models/{model:path}", self._one_model),
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/score", self._score, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {
            HTTPException: self._on_http, ApiError: self._on_api_error,
            NanochatError: self._on_mistake, Exception: self._on_fault,
        }  # fmt: skip
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        return _Guard(app, self._config, self._stats)

    # ------------------------------------------------------------------------------- the routes

    async def _page(self, request: HttpRequest) -> Response:
        return HTMLResponse(self._page_text, headers=page_headers())

    async def _health(self, request: HttpRequest) -> Response:
        if self.is_draining:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    async def _show_stats(self, request: HttpRequest) -> Response:
        batch = self._batch
        text = self._stats.text(
            active=batch.active, waiting=batch.waiting, rows=self._config.max_rows,
            drawn=batch.tokens_drawn, read=batch.tokens_read,
        )  # fmt: skip
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def _models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def _one_model(self, request: HttpRequest) -> Response:
        self._check_model(request.path_params["model"])
        return JSONResponse(self._described())

    async def _completions(self, request: HttpRequest) -> Response:
        asked = CompletionRequest.parse(await self._body(request), self._limits)
        self._check_model(asked.model)
        start, longest = self._checkpoint.data["start"], self._trained.longest_prompt
        contexts = [
            prompt_tokens(self._trained.tokenizer, prompt, start, longest)
            for prompt in asked.prompts
        ]
        echoes = [prompt if asked.echo else "" for prompt in asked.prompts]
        return self._reply(asked, contexts, echoes, is_chat=False)

    async def _chat(self, request: HttpRequest) -> Response:
        asked = ChatRequest.parse(await self._body(request), self._limits)
        self._check_model(asked.model)
        context = conversation.conversation_tokens(self._trained, asked.messages)
        return self._reply(asked, [context], [""], is_chat=True)

    async def _score(self, request: HttpRequest) -> Response:
        asked = ScoreRequest.parse(await self._body(request))
        self._check_model(asked.model)
        steps = score(self._trained, asked.text, self._limits.tokens, asked.alternatives)
        scored = self._batch.work(steps)
        if scored is None:
            raise _too_many()
        self.running += 1
        found, gone = asyncio.wrap_future(scored), asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait(
                (found, gone), timeout=self.max_time, return_when=asyncio.FIRST_COMPLETED
            )
            if found.done():
                return JSONResponse({"object": "score", "model": self.model, **found.result()})
            if not gone.done():
                raise _too_late(self.max_time)
            self.on_gone()
            raise _gone()
        finally:
            found.cancel()
            gone.cancel()
            self.running -= 1

    def _described(self) -> dict[str, Any]:
        return {
            "id": self.model, "object": "model", "created": self._created, "owned_by": "nanochat",
        }  # fmt: skip

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self.model:
            raise ApiError(
                f"model must be {self.model}, got {model[:60]!r}", status=404, param="model",
                code="model_not_found",
            )  # fmt: skip

    def _reply(
        self,
        asked: Request,
        contexts: Sequence[Sequence[int]],  # one per prompt
        echoes: Sequence[str],
        *,
        is_chat: bool,
    ) -> Response:
        """Queue the texts of a request and return the response that waits for them."""
        if self.is_draining:
            raise _stopping()
        starts = [
            TextStart(context=tuple(context), settings=asked.settings, sample=sample)
            for context in contexts
            for sample in range(asked.n)
        ]
        reply = Reply(
            id=f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            created=int(time.time()), model=self.model, seed=asked.settings.seed,
            tokenizer=self._trained.tokenizer, is_chat=is_chat,
            echoes=[echo for echo in echoes for _ in range(asked.n)],
            prompt_tokens=sum(map(len, contexts)), likeliest=asked.likeliest,
            alternatives=asked.alternatives,
        )  # fmt: skip
        return _TextResponse(self, self._batch, asked, starts, reply)

    async def _body(self, request: HttpRequest) -> bytes:
        """Return the body. Raises ApiError for one that is too large or too slow."""
        if self.is_draining:
            raise _stopping()
        limit, body = self._config.max_body * 1024, bytearray()
        size = request.headers.get("content-length", "0")
        deadline = asyncio.get_running_loop().time() + _BODY_S
        more = True
        while more:
            if len(body) > limit or len(size) > 18 or int(size) > limit:  # h11 has read it
                await self._discard(request.receive)
                raise ApiError(
                    f"the body must be at most {limit:,} bytes", status=413,
                    code="request_too_large", headers={"connection": "close"},
                )  # fmt: skip
            message = await _received(request.receive, deadline)
            if message is None:
                raise ApiError(
                    f"the body must arrive within {_BODY_S:g} seconds", status=408,
                    headers={"connection": "close"},
                )  # fmt: skip
            if message["type"] == "http.disconnect":
                self.on_gone()
                raise _gone()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                more = True
        return bytes(body)

    async def _discard(self, receive: Receive) -> None:
        """Read more of a body, so that a client that is still sending it sees the reply."""
        deadline, left = asyncio.get_running_loop().time() + _DISCARD_S, 1 << 26
        while left > 0:
            message = await _received(receive, deadline)
            if message is None or not message.get("more_body", False):
                return
            left -= len(message.get("body", b""))

    # ------------------------------------------------------------------------------- the errors

    def on_gone(self) -> None:
        """Count a client that left before the end of its reply."""
        self._stats.gone += 1

    async def _on_api_error(self, request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _error_response(error)

    async def _on_mistake(self, request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, NanochatError)
        return _error_response(told(error))

    async def _on_http(self, request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, method = request.url.path[:60], request.method[:20]
        message = (
            f"{method} is not a method of {path}"
            if error.status_code == 405
            else f"there is nothing at {path}"
        )
        return _error_response(
            ApiError(message, status=error.status_code, headers=error.headers or {})
        )

    async def _on_fault(self, request: HttpRequest, error: Exception) -> Response:
        self._warn(f"{request.method} {request.url.path[:60]}: {error!r}")
        return _error_response(
            ApiError("the server failed; its log says why", status=500, kind="server_error")
        )


def told(error: NanochatError) -> ApiError:
    """Return the error that a client gets for one of nanochat: its own mistake, or a failure."""
    message = " ".join(str(error).splitlines())
    if error.exit_code == 2:
        return ApiError(message, code=_CODES.get(type(error).__name__))
    return ApiError(message, status=500, kind="server_error")


_CODES = {"PromptTooLong": "context_length_exceeded"}


def _stopping() -> ApiError:
    return ApiError(
        "the server is stopping; ask again later", status=503, kind="server_error",
        code="stopping", headers={"connection": "close", "retry-after": "5"},
    )  # fmt: skip


def _gone() -> ApiError:
    return ApiError("the client has gone")  # which nobody reads


def _too_many() -> ApiError:
    return ApiError(
        "too many requests wait; ask again later", status=429, kind="rate_limit_error",
        code="rate_limit_exceeded", headers={"retry-after": "1"},
    )  # fmt: skip


def _too_late(seconds: float) -> ApiError:
    return ApiError(
        f"the reply took longer than {seconds:g} seconds; ask for fewer tokens", status=503,
        kind="server_error", code="timeout",
    )  # fmt: skip


def _most(*numbers: int | None) -> int | None:
    return max((each for each in numbers if each is not None), default=None)


def _error_response(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _received(receive: Receive, deadline: float) -> Message | None:
    """Return the next message of a request, or None if there is none by the deadline."""
    left = deadline - asyncio.get_running_loop().time()
    try:
        return await asyncio.wait_for(receive(), max(left, 0.0))
    except asyncio.TimeoutError:
        return None


# ------------------------------------------------------------------------------------ the reply


@dataclass(slots=True)
class _Arrived:
    """What has come for one reply and has not been sent. Changed on the thread of the server."""

    changed: asyncio.Event
    parts: list[Part]
    error: NanochatError | None = None
    is_gone: bool = False
    is_late: bool = False


class _TextResponse(Response):
    """Waits for the texts of a request and sends them, whole or part by part.

    A client that goes away frees the rows of its texts.
    """

    def __init__(
        self,
        api: Api,
        batch: Batch,
        asked: Request,
        starts: Sequence[TextStart],
        reply: Reply,
    ) -> None:
        self._api, self._batch, self._asked, self._reply = api, batch, asked, reply
        loop = asyncio.get_running_loop()
        self._arrived = _Arrived(asyncio.Event(), [])
        self._texts = Texts(
            starts, lambda *found: _call(loop, self._take, *found), streams=asked.stream,
            likeliest=_most(asked.likeliest, asked.alternatives),
            is_apart=asked.alternatives is not None,
        )  # fmt: skip
        if not batch.add(self._texts):
            raise _too_many()
        self.background = None
        self.status_code = 200  # for the statistics

    def _take(self, parts: Sequence[Part], error: NanochatError | None) -> None:
        self._arrived.parts += parts
        self._arrived.error = self._arrived.error or error
        self._arrived.changed.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._api.running += 1
        watch = asyncio.ensure_future(self._watch(receive))
        limit_s = self._api.max_time
        late = asyncio.get_running_loop().call_later(limit_s, self._end_late)
        try:
            await (self._stream(send) if self._asked.stream else self._send_whole(send))
        finally:
            self._batch.drop(self._texts)
            late.cancel()
            watch.cancel()
            self._api.running -= 1
            if self._arrived.is_gone and not self._reply.is_complete:
                self._api.on_gone()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._arrived.is_gone = True
        self._arrived.changed.set()

    def _end_late(self) -> None:
        self._arrived.is_late = True
        self._arrived.changed.set()

    async def _next_parts(self) -> Sequence[Part]:
        """Return what has come, nothing if the client has gone. Raises ApiError."""
        arrived = self._arrived
        await arrived.changed.wait()
        arrived.changed.clear()
        if arrived.is_gone:
            return ()
        parts, arrived.parts = arrived.parts, []
        if arrived.error is not None:
            raise told(arrived.error)
        if arrived.is_late and not parts:
            raise _too_late(self._api.max_time)
        if arrived.is_late:
            arrived.changed.set()  # the next call raises
        return parts

    async def _send_whole(self, send: Send) -> None:
        while not self._reply.is_complete:
            parts = await self._next_parts()
            if self._arrived.is_gone:
                return
            for part in parts:
                self._reply.add(part)
        body = JSONResponse(self._reply.whole())
        await send({"type": "http.response.start", "status": 200, "headers": body.raw_headers})
        await send({"type": "http.response.body", "body": body.body})

    async def _stream(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
        ]
        has_begun = False
        usage = self._asked.include_usage
        try:
            while not self._reply.is_complete:
                parts = await self._next_parts()
                if self._arrived.is_gone:
                    return
                if not has_begun:
                    has_begun = True
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                chunks = [chunk for part in parts for chunk in self._reply.chunks(part, usage)]
                await send(_body(b"".join(chunks), more=True))
            last = [self._reply.usage_chunk()] if usage else []
            await send(_body(b"".join([*last, DONE])))
        except ApiError as error:
            if not has_begun:
                raise
            await send(_body(event(error.body) + DONE))


def _body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *found: Any) -> None:
    """Call a function on the thread of the server, unless the server has ended."""
    try:
        loop.call_soon_threadsafe(function, *found)
    except RuntimeError:  # the loop is closed
        if not loop.is_closed():
            raise


# ------------------------------------------------------------------------------------ the checks


class _Guard:
    """Refuses requests without the API key. Without a key, those that another site's page makes in
    the user's browser: by their Host and Origin."""

    def __init__(self, app: ASGIApp, config: ServeConfig, stats: Stats) -> None:
        self._app, self._stats = app, stats
        self._key = None if config.api_key is None else config.api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._stats.replies[_known_path(scope["path"]), message["status"]] += 1
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await _error_response(error)(scope, receive, send_counted)
            return
        await self._app(scope, receive, send_counted)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._key is None:
            _check_is_local(headers)
            return
        if scope["path"] in _OPEN_PATHS:
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            raise ApiError(
                "this server needs its API key, as the header authorization: Bearer KEY",
                status=401, code="invalid_api_key", headers={"www-authenticate": "Bearer"},
            )  # fmt: skip


def _check_is_local(headers: dict[bytes, bytes]) -> None:
    host = headers.get(b"host", b"").decode("latin-1")
    if _host_name(f"//{host}") not in LOOPBACK_NAMES:
        raise ApiError(
            "the host of a request to a server without an API key must be"
            f" {' or '.join(LOOPBACK_NAMES)}",
            status=403, code="forbidden_host",
        )  # fmt: skip
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").partition("://")[2] != host:
        raise ApiError(
            "pages of other sites may not use a server without an API key", status=403,
            code="forbidden_origin",
        )  # fmt: skip


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


_PATHS = (
    "/", "/health", "/stats", "/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/score",
)  # fmt: skip


def _known_path(path: str) -> str:
    """Return a path for the statistics, which have one label for all that do not exist."""
    return path if path in _PATHS else "other"
