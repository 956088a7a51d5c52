"""`--record`: of which parameters a run keeps what happens to them in training."""

from __future__ import annotations

import re
from typing import NamedTuple

from nanochat.config.option import shown
from nanochat.errors import ConfigError

__all__ = ["CHOSEN_BY_MODEL", "MOST_PLACES", "Place", "parse_record"]

CHOSEN_BY_MODEL = "auto"
MOST_PLACES = 256
_PLACE = r"([A-Za-z0-9_.]{1,64})\[([0-9]{1,9}),([0-9]{1,9})\]"


class Place(NamedTuple):
    """One parameter: a number of a weight matrix."""

    name: str  # of the matrix, as wte
    row: int
    column: int

    def __str__(self) -> str:
        return f"{self.name}[{self.row},{self.column}]"


def parse_record(text: str) -> tuple[Place, ...] | None:
    """Parse `none` as None, `auto` as (), and a list like `wte[4,0],lm_head[2,7]`.

    Raises ConfigError for another text, a parameter twice, or more than 256.

    >>> parse_record("wte[4,0], lm_head[2,7]")
    (Place(name='wte', row=4, column=0), Place(name='lm_head', row=2, column=7))
    """
    if text == "none":
        return None
    if text == CHOSEN_BY_MODEL:
        return ()
    places: dict[Place, None] = {}
    for word in re.split(r",(?![0-9]+\])", text.replace(" ", "")):
        found = re.fullmatch(_PLACE, word)
        if found is None:
            raise ConfigError(
                "record must be none, auto, or parameters like wte[4,0],lm_head[2,7], got"
                f" {shown(text)}"
            )
        place = Place(found[1], int(found[2]), int(found[3]))
        if place in places:
            raise ConfigError(f"record must name each parameter once, got {place} twice")
        places[place] = None
    if len(places) > MOST_PLACES:
        raise ConfigError(f"record must name at most {MOST_PLACES} parameters, got {len(places):,}")
    return tuple(places)
