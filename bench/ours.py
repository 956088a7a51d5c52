"""Our side of each race in bench/microgpt.py: one function a case, run as a process of its own.

    python bench/ours.py CASE --data PATH/TO/names.txt

trains as the case's peers do and prints `train seconds S`, the time of the training loop alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peers import STEPS


def ours_exact_replay(names: Path, steps: int) -> float:
    """Seconds of `steps` steps, one document each, in float64 with microgpt.py's own rounding."""
    raise NotImplementedError


def ours_fast_replay(names: Path, steps: int) -> float:
    """Seconds of `steps` steps, one document each, in float32."""
    raise NotImplementedError


def ours_lanes(names: Path, steps: int, n_embd: int) -> float:
    """Seconds of `steps` steps of 16 documents each, in float32, one document a lane."""
    raise NotImplementedError


OURS: dict[str, Callable[[Path, int], float]] = {
    "exact_replay": ours_exact_replay,
    "fast_replay": ours_fast_replay,
    "lanes_16": partial(ours_lanes, n_embd=16),
    "lanes_32": partial(ours_lanes, n_embd=32),
    "lanes_64": partial(ours_lanes, n_embd=64),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=OURS)
    parser.add_argument("--data", type=Path, required=True, help="makemore's names.txt")
    options = parser.parse_args()
    print("train seconds", OURS[options.case](options.data, STEPS))


if __name__ == "__main__":
    main()
