"""How much of a context the counted text has: a walk through the tables of the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.tokenizer import BOS

__all__ = ["matched_tokens"]

_LEAF = 1 << 31  # in a link: a context that occurs once, and the position of its target


def matched_tokens(
    arrays: Mapping[str, NDArray[Any]],  # KneserNey.views
    order: int,
    context: Sequence[int],
) -> int:
    """Return how many of the newest tokens of a context a counted document has, in order.

    See KneserNey.matched.
    """
    nodes, children, stream = arrays["nodes"], arrays["children"], arrays["stream"].ravel()
    node, position, depth = 0, -1, 0
    for token in reversed(context[max(len(context) - order + 1, 0) :]):
        if position < 0:  # not a leaf
            first, last = int(nodes[node, 0]), int(nodes[node + 1, 0])
            found = first + int(np.searchsorted(children[first:last, 0], token))
            if found == last or children[found, 0] != token:
                break
            link = int(children[found, 1])
            if link & _LEAF:
                position = link & ~_LEAF
            else:
                node = link
        elif stream[position - 1 - depth] != token:
            break
        depth += 1
        if token == BOS:
            break
    return depth
