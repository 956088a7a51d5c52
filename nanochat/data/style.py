"""The futuristic style: its documents, for the training part, and its phrases, for sampling.

Owns reading the two embedded files. Leaves out what is done with them: the training part takes
the documents, training/sampling.py weighs the phrases.
"""

from __future__ import annotations

from nanochat.data.registry import embedded_text

__all__ = ["style_documents", "style_phrases"]


def style_documents() -> list[str]:
    """The style corpus, one line a document."""
    return embedded_text("futuristic.txt").decode("utf-8").splitlines()


def style_phrases() -> list[str]:
    """The phrases of that corpus whose continuation sampling favours."""
    return embedded_text("futuristic_phrases.txt").decode("utf-8").splitlines()
