"""The futuristic style: documents for the training part, and phrases for sampling.

Owns reading the two embedded files. Leaves out their use: dataset.py adds the documents to the
training part, and sampling/sampling.py favors the phrases.
"""

from __future__ import annotations

from nanochat.data.registry import embedded_text

__all__ = ["style_documents", "style_phrases"]


def style_documents() -> list[str]:
    """Return the style corpus, one document per line."""
    return embedded_text("futuristic.txt").decode("utf-8").splitlines()


def style_phrases() -> list[str]:
    """Return the phrases of the style corpus that sampling favors."""
    return embedded_text("futuristic_phrases.txt").decode("utf-8").splitlines()
