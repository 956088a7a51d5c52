"""Trained runs, and servers of them as processes of their own on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving.server import CHATTING, KEY, TEXT, Server

import nanochat


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on characters, with counts and a context of 16 tokens."""
    return _train(tmp_path_factory.mktemp("names"), ngram_order=3)


@pytest.fixture(scope="session")
def euros(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on bytes whose text is full of characters of several bytes."""
    return _train(
        tmp_path_factory.mktemp("euros"), text="€ö😀é€\n" * 40, tokenizer="byte", ngram_order=0
    )


def _train(folder: Path, text: str = TEXT, **options: object) -> Path:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    config = nanochat.TrainConfig(
        mode="tensor", device="cpu", data=str(folder / "text.txt"), documents="line",
        model_kind="mini-gpt", positions="rope", n_layer=2, n_head=2, n_embd=16, block_size=16,
        batch_size=4, steps=60, num_samples=0, out=str(folder / "run"), **options,
    )  # fmt: skip
    return nanochat.train(config).run


@contextmanager
def _hangups_are_heard() -> Iterator[None]:
    """A process that starts now hears them, also where nohup runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Server]]:
    """Start `nanochat serve RUN WORDS…`; it ends with the tests."""
    servers: list[Server] = []

    def begin(run: Path, *words: str, code: str = "", **environment: str) -> Server:
        program = ["-c", code] if code else ["-m", "nanochat"]
        with _hangups_are_heard():
            process = subprocess.Popen(
                [sys.executable, *program, "serve", str(run), "--port=0", "--json", *words],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        servers.append(Server(process))
        return servers[-1]

    yield begin
    for server in servers:
        server.end()


@pytest.fixture(scope="session")
def server(start: Callable[..., Server], names: Path) -> Server:
    """A server of `names`, which tests share."""
    return start(names)


@pytest.fixture(scope="session")
def chatting(start: Callable[..., Server], names: Path) -> Server:
    """A server of `names` that takes conversations."""
    return start(names, code=CHATTING)


@pytest.fixture(scope="session")
def keyed(start: Callable[..., Server], names: Path) -> Server:
    """One that needs an API key as well."""
    return start(names, code=CHATTING, NCLAB_API_KEY=KEY)


@pytest.fixture(scope="session")
def euro_server(start: Callable[..., Server], euros: Path) -> Server:
    return start(euros)
