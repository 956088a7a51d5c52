"""`nanochat.read_documents`: the documents of a text. Reading itself is in data/corpus.py."""

from __future__ import annotations

import os
from collections.abc import Sequence

from nanochat.config.options import TrainConfig
from nanochat.data.conversations import as_text, turns_of_marked
from nanochat.data.corpus import load_corpus

__all__ = ["read_documents"]


def read_documents(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "names",
    *,
    documents: str = "auto",
    separator: str | None = None,
    text_column: str | None = None,
) -> list[str]:
    """Return the documents of a text as `train` reads them, in reading order, before the split.

    The arguments are the options of the same names of TrainConfig: `data` is a file, a folder, a
    URL, `-` or a registry name, or a sequence of them. The default is the embedded list of names.
    A conversation is a text whose lines begin with `User:`, `Assistant:` and `System:`.

    Raises:
        ConfigError: an argument is not allowed.
        CorpusError: the text cannot be found, read or decoded, or contains nothing.
        MissingDependency: a format needs a package that is not installed.

    Example:
        >>> import nanochat
        >>> names = nanochat.read_documents("names")
        >>> len(names), names[:3]
        (16000, ['aaden', 'aadhya', 'aadi'])
    """
    options = {"separator": separator, "text_column": text_column}
    given = {name: value for name, value in options.items() if value is not None}
    config = TrainConfig(data=data, documents=documents, **given)  # type: ignore[arg-type]  # parsed
    corpus = load_corpus(
        config.data, config.documents, separator=config.separator, text_column=config.text_column
    )
    if corpus.kind == "chat":
        return [as_text(turns_of_marked(text)) for text in corpus.documents]
    return list(corpus.documents)
