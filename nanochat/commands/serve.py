"""`nanochat serve`: a trained model behind an HTTP API, until a signal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from nanochat.config.option import config_or_default
from nanochat.config.options import SampleConfig, ServeConfig
from nanochat.errors import ConfigError, MissingDependency
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.load import load_trained, read_checkpoint
from nanochat.sampling.generate import phrase_bias

__all__ = ["serve"]


def serve(
    config: ServeConfig | Mapping[str, Any] | None = None,
    *,
    on_listening: Callable[[str], object] | None = None,  # gets the address, as http://…
    terminal: Terminal = SILENT,
) -> None:
    """Answer the clients of OpenAI's API with a trained model. Returns after SIGINT or SIGTERM.

    A text is the one that `nanochat sample` writes with the same options and seed, whatever other
    texts are drawn at the same time. In another thread than the main one, it answers until the
    process ends. Raises CheckpointError, ConfigError, and MissingDependency without the packages
    of the extra `serve`.
    """
    config = config_or_default(config, ServeConfig)
    try:
        from nanochat.serving.app import Api
        from nanochat.serving.server import (
            check_no_event_loop,
            is_loopback,
            listening_socket,
            serve_until_signal,
        )
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "h11", "anyio"):
            raise
        raise MissingDependency(
            "serve needs the packages starlette and uvicorn; pip install 'nanochat-lab[serve]'"
        ) from error
    from nanochat.serving.batch import Batch
    from nanochat.serving.conversation import takes_conversations
    from nanochat.serving.rows import rows_of

    check_no_event_loop()
    if config.api_key is None and not is_loopback(config.host):
        raise ConfigError(
            f"host {config.host} can be reached by others and needs an api_key; set NCLAB_API_KEY,"
            " or leave host out"
        )
    bound = listening_socket(config.host, config.port)
    with bound:
        checkpoint, trained_config, skipped = read_checkpoint(config.checkpoint, config.run)
        for reason in skipped:
            terminal.warn(reason)
        trained = load_trained(config, checkpoint, trained_config)
        bias = phrase_bias(trained.tokenizer, trained_config.style, SampleConfig().style_weight)
        rows = rows_of(trained, config.max_rows, bias)
        batch = Batch(rows, config.max_rows, trained.tokenizer, config.max_queue)
        api = Api(config, trained, batch, terminal.warn)
        name, port = bound.getsockname()[:2]
        url = f"http://{f'[{name}]' if ':' in name else name}:{port}"

        def tell() -> None:
            terminal.result(f"serving {checkpoint.path} at {url}")
            is_chat = takes_conversations(trained)
            terminal.result(client_line(url, has_key=config.api_key is not None, is_chat=is_chat))
            terminal.json_result({"url": url, "model": api.model})
            if on_listening is not None:
                on_listening(url)

        try:
            serve_until_signal(api, bound, on_listening=tell, note=terminal.note)
        finally:
            batch.close()


def client_line(url: str, *, has_key: bool, is_chat: bool = False) -> str:
    """Return a line for a shell that asks the server for a text, or for a reply."""
    key = ' -H "authorization: Bearer $NCLAB_API_KEY"' if has_key else ""
    path, fields = "completions", {"prompt": "", "max_tokens": 100}
    if is_chat:
        path, fields = "chat/completions", {"messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps(fields)
    return f"curl {url}/v1/{path}{key} -H 'content-type: application/json' -d '{body}'"
