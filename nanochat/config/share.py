"""`--ngram-share`: the scale and the offset of the counts' share in a mixture."""

from __future__ import annotations

import math
from contextlib import suppress

from nanochat.config.option import shown
from nanochat.errors import ConfigError

__all__ = ["FITTED", "parse_share", "share_words"]

FITTED = "auto"
MOST_SCALE, MOST_OFFSET = 100.0, 1000.0


def parse_share(text: str) -> tuple[float, float] | None:
    """Parse `SCALE,OFFSET`. Return None for `auto`. Raises ConfigError.

    >>> parse_share("0.6,1")
    (0.6, 1.0)
    """
    if text == FITTED:
        return None
    with suppress(ValueError):
        scale, offset = map(float, text.split(","))
        is_finite = math.isfinite(scale) and math.isfinite(offset)
        if is_finite and 0 <= scale <= MOST_SCALE and abs(offset) <= MOST_OFFSET:
            return scale, offset
    raise ConfigError(
        f"ngram_share must be auto or SCALE,OFFSET with a scale between 0 and {MOST_SCALE:g} and an"
        f" offset between {-MOST_OFFSET:g} and {MOST_OFFSET:g}, got {shown(text)}"
    )


def share_words(scale: float, offset: float) -> str:
    """Return the option's text, which `parse_share` reads."""
    return f"{scale:.4g},{offset:.4g}"
