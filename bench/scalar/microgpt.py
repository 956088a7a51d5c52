"""The scalar engine beside microgpt.py and beside its ports to C++, Rust and C, in one run.

    python -m bench.scalar.microgpt --reference PATH/TO/microgpt.py --data PATH/TO/names.txt
        [--spread N] [--peer NAME=COMMAND …] [--about NAME=TEXT …]

runs the reference unmodified for a few steps, takes its initial weights and its order of
documents, trains the scalar engine on them and compares the losses at full precision. `--spread N`
also runs the reference to its end for N seeds, with our `Value` in place of its own class (that
this changes no bit of a loss is checked first), and sets the mean loss of the last 50 steps beside
that of `nanochat train --mode scalar --preset microgpt`. The reference then runs beside itself with
the README's changed lines (recorded.py), and the padding of a batch's lanes is counted. Each peer
(ports.py) races against our side of its case (ours.py): processes in turn, best and median round,
the machine's limit (limits.py) beside them; `--about` keeps a peer's revision and flags beside its
figures. drop_in.py, micrograd.py and value.py time `Value` itself.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import write_result
from bench.scalar.microgpt_engine import compare_spread, compare_steps
from bench.scalar.microgpt_limits import (
    best_of,
    lengths_of,
    limit,
    measured_alone,
    padding,
    texts_of,
)
from bench.scalar.microgpt_ours import measure_floor
from bench.scalar.microgpt_ports import STEPS, parse_named, race
from bench.scalar.microgpt_recorded import compare_recorded
from nanochat.system.environment import cpu_features


@dataclass(frozen=True)
class Case:
    """A race: our side, a name in ours.py, and the peers that compute the same."""

    ours: str
    n_embd: int
    batch: int
    dtype: str
    peers: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.ours}: batch {self.batch}, {self.n_embd} dims, {self.dtype}"


DOUBLE = ("microgpt.cpp-double", "rust-microgpt")
CASES = (
    Case("exact_replay", 16, 1, "float64", DOUBLE),
    Case("fast_replay", 16, 1, "float64", DOUBLE),
    Case("fast_replay_float32", 16, 1, "float32", ("microgpt.cpp",)),
    Case("lanes_16", 16, 16, "float32", ("eemicrogpt-16",)),
    Case("lanes_32", 32, 16, "float32", ("eemicrogpt-32",)),
    Case("lanes_64", 64, 16, "float32", ("eemicrogpt-64",)),
)


def run_case(
    case: Case, commands: dict[str, str], names: Path, rounds: int, peers_only: bool
) -> dict[str, Any]:
    """Race one case's peers that were given and return the record."""
    sides = {peer: commands[peer] for peer in case.peers if peer in commands}
    if not peers_only:
        sides = {"ours": _ours(case.ours, names), **sides}
    timings = race(sides, names, rounds)
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


def _ours(case: str, names: Path) -> str:
    program = [sys.executable, str(Path(__file__).with_name("ours.py")), case]
    return shlex.join([*program, "--data", str(names)])


def print_case(record: dict[str, Any]) -> None:
    """The table of one case: every side, what of the machine's limit it reaches, and the limit."""
    limit = record["limit"]
    print(f"{record['case']}: {STEPS} steps, best (median) of {record['rounds']} rounds")
    for side, row in record["sides"].items():
        print(
            f"  {side:20} {row['step_us_best']:8.1f} us ({row['step_us_median']:.1f}) a step by "
            f"{row['steps_timed_by']}; {row['process_s_best']:.3f} s "
            f"({row['process_s_median']:.3f}) a process; "
            f"{limit['share_reached'][side]:.1%} of the limit"
        )
    print(
        f"  the machine's limit  {limit['limit_us']:8.1f} us: {limit['flops'] / 1e6:.3f} MFLOP at "
        f"the peak {limit['products_us']:.1f} us, Adam's {limit['adam_bytes'] / 1e3:.0f} kB "
        f"{limit['adam_us']:.1f} us"
    )
    if floor := record.get("floor"):
        print(
            f"  a document of one position {floor['one_position_us']:.1f} us: "
            f"{floor['calls']} calls one after the other, {floor['ns_per_call']:.0f} ns each, and "
            f"Adam {floor['adam_us']:.1f} us"
        )


def add_limits(records: list[dict[str, Any]], peaks: dict[str, Any], names: Path) -> None:
    """Beside each case's figures, what this core's peaks would allow (limits.py)."""
    texts = texts_of(names)
    for record in records:
        case = next(case for case in CASES if case.title == record["case"])
        lengths = lengths_of(texts, STEPS, case.batch)
        record["limit"] = limit(case.n_embd, lengths, case.dtype, peaks)
        record["limit"]["share_reached"] = {
            side: record["limit"]["limit_us"] / row["step_us_best"]
            for side, row in record["sides"].items()
        }
        if case.batch == 1 and "ours" in record["sides"]:
            record["floor"] = measure_floor(names, case.ours, case.dtype)


def compare_padding(names: Path) -> dict[str, Any]:
    """Padding in 200 batches of 16 documents in random order, for this processor's vectors."""
    width = 16 if "avx512f" in cpu_features() else 8 if "avx2" in cpu_features() else 4
    lengths = lengths_of(texts_of(names), 200, 16, shuffled=True)
    shares = padding(16, lengths, width)
    print(f"padding of 200 batches of 16 documents, vectors of {width} lanes, share of lane work:")
    print(f"  ours {shares['ours']:.1%}, documents alone in lanes {shares['documents_alone']:.1%}")
    return {"batches": 200, "documents": 16, "lanes": width, **shares}


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
    parser.add_argument("--recorded-rounds", type=int, default=3, help="of the recorded script")
    parser.add_argument("--peers-only", action="store_true", help="no run of our side in the races")
    options = parser.parse_args()
    source, names = options.reference.read_text(encoding="utf-8"), options.data.resolve()
    commands = parse_named("--peer", options.peer)
    record = compare_steps(source, names, options.steps)
    if options.spread:
        record["spread"] = compare_spread(source, names, options.spread)
    record["recorded"] = compare_recorded(source, names, options.steps, options.recorded_rounds)
    record["padding"] = compare_padding(names)
    record["peers"] = parse_named("--about", options.about)
    peaks = measured_alone()
    record["cases"] = [
        run_case(case, commands, names, options.rounds, options.peers_only)
        for case in CASES
        if any(peer in commands for peer in case.peers)
    ]
    # Before and behind the races, the better of each: the machine may have been busy.
    record["peaks_of_one_core"] = peaks = best_of(peaks, measured_alone())
    print("one core:", json.dumps(peaks))
    add_limits(record["cases"], peaks, names)
    for case in record["cases"]:
        print_case(case)
    print(write_result("scalar/microgpt", record))


if __name__ == "__main__":
    main()
