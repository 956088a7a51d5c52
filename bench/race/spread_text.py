"""A text whose last tenth is drawn from everywhere in it, to tell a harder end from a weak model.

    python -m bench.race.spread_text SOURCE FILE

Cuts the source into blocks of 8 kB and moves every tenth block to the end.
"""

from __future__ import annotations

from pathlib import Path

from bench.command import command_parser

BLOCK = 8192  # bytes
EVERY = 10


def spread(text: bytes) -> bytes:
    """Return the text with every tenth block at the end.

    >>> moved = spread(bytes(range(20)) * BLOCK)
    >>> len(moved) == 20 * BLOCK
    True
    """
    blocks = [text[first : first + BLOCK] for first in range(0, len(text), BLOCK)]
    kept = [block for number, block in enumerate(blocks) if number % EVERY != EVERY // 2]
    return b"".join([*kept, *blocks[EVERY // 2 :: EVERY]])


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    options.file.write_bytes(spread(options.source.read_bytes()))


if __name__ == "__main__":
    main()
