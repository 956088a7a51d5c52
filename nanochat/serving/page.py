"""The page of `nanochat serve`: one HTML file that talks to the server it comes from, only to it.

The browser's code is in page/, by hand and without a library; inspection/page.py puts it together.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from nanochat.config.options import SampleConfig, ServeConfig
from nanochat.inspection.page import assembled, policy_of
from nanochat.runs.load import TrainedModel
from nanochat.serving import conversation

__all__ = ["FOLDER", "SCRIPTS", "page_headers", "page_text"]

FOLDER = Path(__file__).parent / "page"

# In this order they are one script.
SCRIPTS = (
    "dom.js", "colors.js", "state.js", "api.js", "tokens.js", "writing.js", "complete.js",
    "chat.js", "score.js", "main.js",
)  # fmt: skip
_MAY = "; connect-src 'self'; img-src data:"  # to ask this server, and to have an empty icon


def page_text(config: ServeConfig, trained: TrainedModel) -> str:
    """Return the page for a served model. It is sent without a key, so it has no name of a run
    if there is one."""
    defaults, longest = SampleConfig(), trained.longest_prompt
    facts: dict[str, Any] = {
        "model": None if config.api_key else trained.checkpoint.run_folder.name,
        "needs_key": config.api_key is not None,
        "has_chat": conversation.takes_conversations(trained),
        "has_counts": trained.counts is not None and trained.config.model_kind != "ngram",
        "context": None if longest == sys.maxsize else longest,
        "uniform": math.log(trained.tokenizer.vocab_size),  # nats per token of a guess
        "options": {
            "temperature": defaults.temperature, "top_k": defaults.top_k, "top_p": defaults.top_p,
            "max_tokens": min(defaults.max_new_tokens, config.max_tokens), "seed": None,
        },
        "most_tokens": config.max_tokens,
    }  # fmt: skip
    return assembled(FOLDER, SCRIPTS, facts, _MAY)


def page_headers() -> dict[str, str]:
    """Return the headers of the page: its policy again, and that no other page may frame it."""
    return {
        "content-security-policy": policy_of(FOLDER, SCRIPTS, _MAY + "; frame-ancestors 'none'"),
        "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }  # fmt: skip
