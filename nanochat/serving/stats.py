"""Counters of a server, as Prometheus reads them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

__all__ = ["Stats"]


class Stats:
    """What a server has done since it began. Changed on the thread of the server alone."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.replies: Counter[tuple[str, int]] = Counter()  # by path and status
        self.gone = 0  # clients that left before the end of their reply

    def text(self, *, active: int, waiting: int, rows: int, drawn: int, read: int) -> str:
        """Return the text of /stats."""
        replies = [
            (f'{{path="{path}",status="{status}"}}', count)
            for (path, status), count in sorted(self.replies.items())
        ]
        uptime = round(time.monotonic() - self._began, 3)
        return "".join((
            _metric("replies_total", "counter", "Replies by path and status.", replies),
            _metric("clients_gone_total", "counter", "Clients that left early.", self.gone),
            _metric("tokens_total", "counter", "Tokens drawn.", drawn),
            _metric("prompt_tokens_total", "counter", "Tokens of prompts read.", read),
            _metric("texts_active", "gauge", "Texts that are drawn now.", active),
            _metric("texts_waiting", "gauge", "Texts that wait for a row.", waiting),
            _metric("rows", "gauge", "Texts that can be drawn at one time.", rows),
            _metric("uptime_seconds", "gauge", "Seconds since the server began.", uptime),
        ))  # fmt: skip


def _metric(
    name: str, kind: str, help: str, value: float | Sequence[tuple[str, float]]
) -> str:  # a value, or one for each set of labels
    samples = [("", value)] if isinstance(value, (int, float)) else value
    lines = [f"# HELP nanochat_{name} {help}", f"# TYPE nanochat_{name} {kind}"]
    lines += [f"nanochat_{name}{labels} {number}" for labels, number in samples]
    return "\n".join(lines) + "\n"
