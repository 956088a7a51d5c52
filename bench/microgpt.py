"""The scalar engine beside microgpt.py and beside its ports to C++, Rust and C, in one run.

    python bench/microgpt.py --reference PATH/TO/microgpt.py --data PATH/TO/names.txt
        [--spread N] [--peer NAME=COMMAND …] [--about NAME=TEXT …]

runs the reference unmodified for a few steps, takes its initial weights and its order of
documents, trains the scalar engine on them and compares the losses at full precision. `--spread N`
also runs the reference to its end for N seeds, with our `Value` in place of its own class (that
this changes no bit of a loss is checked first), and sets the mean loss of the last 50 steps beside
that of `nanochat train --mode scalar --preset microgpt`. Each peer (peers.py) races against our
side of its case (ours.py): processes in turn, best and median round; `--about` keeps a peer's
revision and flags beside its figures. drop_in.py, micrograd.py and value.py time `Value` itself.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import compare_spread, compare_steps
from machine import write_result
from peers import STEPS, Timing, parse_named, race


@dataclass(frozen=True)
class Case:
    """A race: our side, a name in ours.py, and the peers that compute the same."""

    title: str
    ours: str
    peers: tuple[str, ...]


CASES = (
    Case("batch 1, 16 dims, float64", "exact_replay", ("microgpt.cpp-double", "rust-microgpt")),
    Case("batch 1, 16 dims, float32", "fast_replay", ("microgpt.cpp",)),
    Case("batch 16, 16 dims, float32", "lanes_16", ("eemicrogpt-16",)),
    Case("batch 16, 32 dims, float32", "lanes_32", ("eemicrogpt-32",)),
    Case("batch 16, 64 dims, float32", "lanes_64", ("eemicrogpt-64",)),
)


def run_case(
    case: Case, commands: dict[str, str], names: Path, rounds: int, peers_only: bool
) -> dict[str, Any]:
    """Race one case's peers that were given, print the table and return the record."""
    sides = {peer: commands[peer] for peer in case.peers if peer in commands}
    if not peers_only:
        ours = [sys.executable, str(Path(__file__).with_name("ours.py")), case.ours]
        sides = {"ours": shlex.join([*ours, "--data", str(names)]), **sides}
    timings = race(sides, names, rounds)
    print(f"{case.title}, {STEPS} steps, best (median) of {rounds} rounds")
    for side, timing in timings.items():
        print(f"  {side:20} {_row(timing)}")
    return {
        "case": case.title,
        "steps": STEPS,
        "rounds": rounds,
        "sides": {side: timing.record() for side, timing in timings.items()},
        "ratio_of_best_steps": {
            peer: min(timings[peer].step_us) / min(timings["ours"].step_us)
            for peer in timings
            if peer != "ours" and "ours" in timings
        },
    }


def _row(timing: Timing) -> str:
    record = timing.record()
    return (
        f"{record['step_us_best']:8.1f} us ({record['step_us_median']:.1f}) a step by "
        f"{timing.steps_timed_by}; {record['process_s_best']:.3f} s "
        f"({record['process_s_median']:.3f}) a process"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, required=True, help="microgpt.py, the final gist")
    parser.add_argument(
        "--data", type=Path, required=True, help="its input.txt: makemore's names.txt"
    )
    parser.add_argument("--steps", type=int, default=100, help="of the reference")
    parser.add_argument("--spread", type=int, default=0, help="seeds to run to the end")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--about", action="append", default=[], metavar="NAME=TEXT")
    parser.add_argument("--rounds", type=int, default=9, help="of each race")
    parser.add_argument("--peers-only", action="store_true", help="no run of our side in the races")
    options = parser.parse_args()
    source, names = options.reference.read_text(encoding="utf-8"), options.data.resolve()
    commands = parse_named("--peer", options.peer)
    record = compare_steps(source, names, options.steps)
    if options.spread:
        record["spread"] = compare_spread(source, names, options.spread)
    record["peers"] = parse_named("--about", options.about)
    record["cases"] = [
        run_case(case, commands, names, options.rounds, options.peers_only)
        for case in CASES
        if any(peer in commands for peer in case.peers)
    ]
    print(write_result("microgpt", record))


if __name__ == "__main__":
    main()
