"""Stop texts: where a sample ends because it has drawn one of them.

Works on text that arrives in pieces of any length: a stop text may cross the borders of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopText"]


class StopText:
    """Passes on the text before the first stop text and holds back what may become one.

    The first stop text is the one that is complete first; of those that end together, the longest.
    The result does not depend on how the text is cut into pieces.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        assert all(stop)  # config/ refuses an empty text
        self._stop = stop
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Return the text that is now known to precede every stop text."""
        if self.found or not (self._stop and piece):
            return "" if self.found else piece
        text = self._held + piece
        matches = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if matches:
            self.found, self._held = True, ""
            return text[: min(matches)[1]]
        kept = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        """Return the text that was held back and has not become a stop text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop` and is shorter."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)
