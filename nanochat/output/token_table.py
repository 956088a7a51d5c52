"""The file of `nanochat eval --per-token`: one row per token, as JSON lines or CSV.

Two models are compared in pairs by these rows: by `index` if they have the same tokenizer, and by
`start` and `end`, bytes of the scored text, if they do not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents, token_stream
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import OutputError

__all__ = ["COLUMNS", "TokenTable"]

COLUMNS = ("index", "document", "token", "piece", "start", "end", "bytes", "nats")

_ROWS = 1 << 16  # that are formatted at a time

_Row = tuple[int, int, int, int, int, float]  # index, document, token, start, end, nats


class TokenTable:
    """A file that is replaced whole. It is opened before the work, so that a mistake costs none.

    Close it in any case. Raises OutputError if the file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._target = Path(os.path.realpath(path))  # a link stays a link
        if os.path.exists(self._target) and not os.path.isfile(self._target):
            raise self._error("it is not a regular file")
        self._temporary = self._target.with_name(f".per-token-{os.getpid()}.tmp")
        try:
            with suppress(FileNotFoundError):
                os.lstat(self._target)  # fails for a name that is too long
            self._file = open(self._temporary, "w", encoding="utf-8", newline="")  # noqa: SIM115  # until close
        except OSError as error:
            raise self._error(error.strerror or error) from error

    def close(self) -> None:
        """Remove what is not in its place."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()

    def write(
        self,
        documents: Documents,
        tokenizer: Tokenizer,
        nats: NDArray[np.float64],  # (pairs,) of each target, document after document
    ) -> None:
        """Write all rows and put the file in its place. Tokens that are no targets have none."""
        is_csv = self.path.lower().endswith(".csv")
        text = _csv_row(tokenizer) if is_csv else _json_row(tokenizer)
        targets = token_stream(documents)[1:]
        begun = 0  # bytes of the text before the rows
        document_ends = documents.offsets[1:] + np.arange(1, documents.count + 1)
        try:
            if is_csv:
                self._file.write(",".join(COLUMNS) + "\n")
            for first in range(0, len(nats), _ROWS):
                part = slice(first, first + _ROWS)
                ids, index = targets[part].astype(np.int64), np.arange(first, len(nats))[:_ROWS]
                ends = begun + np.cumsum(tokenizer.token_bytes[ids])
                starts = ends - tokenizer.token_bytes[ids]
                begun = int(ends[-1])
                document = np.searchsorted(document_ends, index, side="right")
                columns: list[NDArray[Any]] = [index, document, ids, starts, ends, nats[part]]
                if documents.is_target is not None:
                    columns = [column[documents.is_target[part]] for column in columns]
                rows = zip(*(column.tolist() for column in columns), strict=True)
                self._file.writelines(map(text, rows))
            self._commit()
        except OSError as error:
            raise self._error(error.strerror or error) from error

    def _commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._target)

    def _error(self, reason: Any) -> OutputError:
        return OutputError(
            f"per_token must be a file that can be written, got {self.path}: {reason}; choose"
            " another file"
        )


def _json_row(tokenizer: Tokenizer) -> Callable[[_Row], str]:
    # JSON has no nan: as in metrics.jsonl, it is a text.
    piece = _Pieces(tokenizer, json.dumps)

    def text(row: _Row) -> str:
        index, document, token, start, end, nats = row
        figure = repr(nats) if math.isfinite(nats) else f'"{nats}"'
        return (
            f'{{"index":{index},"document":{document},"token":{token},"piece":{piece[token]},'
            f'"start":{start},"end":{end},"bytes":{end - start},"nats":{figure}}}\n'
        )

    return text


def _csv_row(tokenizer: Tokenizer) -> Callable[[_Row], str]:
    piece = _Pieces(tokenizer, lambda text: '"' + text.replace('"', '""') + '"')

    def text(row: _Row) -> str:
        index, document, token, start, end, nats = row
        return f"{index},{document},{token},{piece[token]},{start},{end},{end - start},{nats!r}\n"

    return text


class _Pieces(dict[int, str]):
    """The quoted text of each token, made when it is first asked for."""

    def __init__(self, tokenizer: Tokenizer, quoted: Callable[[str], str]) -> None:
        super().__init__()
        self._tokenizer, self._quoted = tokenizer, quoted

    def __missing__(self, token: int) -> str:
        self[token] = self._quoted(self._tokenizer.token_text(token))
        return self[token]
