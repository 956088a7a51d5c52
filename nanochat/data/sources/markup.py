"""The text of HTML: tags, scripts and styles are dropped, blocks become lines.

Works on a stream with the standard library's parser, which repairs broken HTML as browsers do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from itertools import chain

from nanochat.data.sources.opening import Unreadable

__all__ = ["html_text"]

_DROPPED = frozenset({"head", "script", "style", "template", "svg", "noscript"})
_PARAGRAPHS = frozenset(
    {"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre",
     "section", "article", "header", "footer", "main", "nav", "aside", "figure", "hr", "form"}
)  # fmt: skip
_LINES = frozenset({"br", "div", "li", "tr", "dt", "dd", "figcaption", "caption", "option"})
_SPACE = re.compile(r"[ \t\n\r\f]+")


class _Text(HTMLParser):
    """Collects text. White space collapses outside <pre>, as a browser shows it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._dropped: list[str] = []  # open elements whose text is not shown
        self._preformatted = 0
        self._breaks = 0  # line breaks before the next text
        self._space = False  # whether a space is due before the next text
        self._started = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":  # ends a head that was never closed
            self._dropped.clear()
        if self._dropped:
            if tag == self._dropped[-1]:
                self._dropped.append(tag)
        elif tag in _DROPPED:
            self._dropped.append(tag)
        else:
            self._preformatted += tag == "pre"
            self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._dropped and tag not in _DROPPED:  # <script/> has no content
            self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._dropped:
            if tag == self._dropped[-1]:
                self._dropped.pop()
            return
        self._preformatted -= tag == "pre" and self._preformatted > 0
        self._break(tag)
        if tag in ("td", "th"):
            self.handle_data("\t" if self._preformatted else " ")

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        if self._preformatted:
            self._write(data)
            return
        for piece in re.split(r"([ \t\n\r\f]+)", data):
            if _SPACE.fullmatch(piece):
                self._space = True
            elif piece:
                self._write(piece)

    def unknown_decl(self, data: str) -> None:
        """Ignore marked sections such as CDATA."""

    def _write(self, text: str) -> None:
        if self._started and self._breaks:
            self.pieces.append("\n" * self._breaks)
        elif self._started and self._space:
            self.pieces.append(" ")
        self.pieces.append(text)
        self._breaks, self._space, self._started = 0, False, True

    def _break(self, tag: str) -> None:
        wanted = 2 if tag in _PARAGRAPHS else 1 if tag in _LINES else 0
        if tag == "br":
            self._breaks = min(self._breaks + 1, 2)
        self._breaks = max(self._breaks, wanted)


def html_text(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the text of an HTML page as UTF-8. Raises CorpusError if it has none."""
    parser = _Text()
    found = False
    for chunk in chain(_decoded(chunks), [None]):
        try:
            parser.close() if chunk is None else parser.feed(chunk)
        except AssertionError as error:  # the parser's own way to refuse a declaration
            raise Unreadable(f"{name} is not HTML: {error}", "damaged HTML page") from error
        text = "".join(parser.pieces)
        parser.pieces.clear()
        if "\0" in text:
            raise Unreadable(
                f"{name} is not text: it contains the character NUL; remove it", "binary file"
            )
        if text:
            found = found or not text.isspace()
            yield text.encode("utf-8", "replace")  # &#xD800; is no character
    if not found:
        raise Unreadable(
            f"{name} must contain text outside its tags, got none; give another page",
            "HTML page without text",
        )


def _decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    return (str(chunk, "utf-8") for chunk in chunks)
