"""The table of `sample --explain`: one row per token, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from nanochat.data.tokenizer import BOS
from nanochat.output.table import table_text
from nanochat.output.text import display_width, quoted
from nanochat.sampling.explain import TokenExplanation

__all__ = ["END", "explanation_record", "explanation_text", "legend"]

END = "(end)"  # of a document
LEGEND = "prob: of the token, before temperature, top-k and top-p"
LEGEND_OF_COUNTS = (
    "network, counts: by each alone; share: of the counts in the mixture; order: of the longest"
    " n-gram that the counts found"
)
WIDTH = 80
_TOKEN_WIDTH = 12
_LEAST_SHOWN = 0.005  # rounds to 0.01


def explanation_text(
    explanations: Sequence[TokenExplanation],
    token_text: Callable[[int], str],
    encoding: str = "utf-8",
) -> str:
    """Return the rows of one sample. Probabilities are those before temperature, top-k and top-p.

    Of the likeliest tokens, a row has as many as fit.
    """

    def name(token: int) -> str:
        return END if token == BOS else quoted(token_text(token), _TOKEN_WIDTH, encoding)

    mixed = any(each.counts is not None for each in explanations)
    header = ["token", "prob"]
    header += ["network", "counts", "share", "order"] if mixed else []
    rows = []
    for each in explanations:
        row = [name(each.token), _figure(each.probability)]
        if each.counts is not None:
            row += [_figure(each.network), _figure(each.counts)]
            row += [f"{each.counts_share:.2f}", str(each.matched_order)]
        rows.append(row)
    used = [max(map(display_width, column)) for column in zip(header, *rows, strict=True)]
    room = WIDTH - sum(used) - 2 * len(used)
    for row, each in zip(rows, explanations, strict=True):
        row.append(_alternatives([(name(t), p) for t, p in each.likeliest], room))
    numbers = range(1, len(header))
    return table_text([*header, "likeliest"], rows, numbers=numbers, rich=False)


def legend(explanations: Sequence[TokenExplanation]) -> str:
    """Return what the columns of the table are."""
    has_counts = any(each.counts is not None for each in explanations)
    return f"{LEGEND}; {LEGEND_OF_COUNTS}" if has_counts else LEGEND


def explanation_record(
    explanation: TokenExplanation, token_text: Callable[[int], str]
) -> dict[str, Any]:
    """Return one token of `nanochat sample --explain --json`."""
    record = asdict(explanation)
    record["text"] = token_text(explanation.token)
    record["likeliest"] = [
        {"token": token, "text": token_text(token), "probability": probability}
        for token, probability in explanation.likeliest
    ]
    return record


def _alternatives(tokens: Sequence[tuple[str, float]], room: int) -> str:
    text = ""
    for name, probability in tokens:
        if text and probability < _LEAST_SHOWN:
            break
        longer = f"{text}  {name} {probability:.2f}" if text else f"{name} {probability:.2f}"
        if display_width(longer) > room:
            break
        text = longer
    return text


def _figure(probability: float) -> str:
    """Return a probability in six columns; small ones in powers of ten."""
    return f"{probability:.4f}" if probability >= 0.001 else f"{probability:.0e}"
