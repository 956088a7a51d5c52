"""The scalar engine compared with microgpt.py and with its ports to C++, Rust and C, in one run.

    python -m bench.scalar.microgpt --reference PATH/TO/microgpt.py --data PATH/TO/names.txt
        [--spread N] [--peer NAME=COMMAND …] [--about NAME=TEXT …]

Runs the unmodified reference for a few steps, trains the scalar engine on its initial weights and
its order of documents, and compares the losses at full precision. `--spread N` also runs the
reference to its end for N seeds with `nanochat.Value` in place of its own class (after a check that
this keeps every loss bit-identical), and compares the mean loss of the last 50 steps with that of
`nanochat train --mode scalar --preset microgpt`. The reference is then compared with its recorded
form, which has the changed lines of docs/microgpt.md (microgpt_recorded.py), and the padding of a
batch's lanes is counted. Each peer (microgpt_ports.py) races against our side of its case
(microgpt_ours.py): processes in turn, best and median of the rounds, and the machine's limit
(microgpt_limits.py). `--about` records a peer's revision and compiler flags. drop_in.py,
micrograd.py and value.py time `Value` itself. Writes results/scalar/microgpt.json.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.command import command_parser, module_command
from bench.machine import write_result
from bench.scalar.microgpt_engine import compare_spread, compare_steps
from bench.scalar.microgpt_limits import (
    best_of,
    documents_of,
    lengths_of,
    limit,
    measured_alone,
    padding,
)
from bench.scalar.microgpt_ours import measure_floor
from bench.scalar.microgpt_ports import STEPS, parse_named, race
from bench.scalar.microgpt_recorded import compare_recorded
from nanochat.system.environment import cpu_features


@dataclass(frozen=True)
class Case:
    """A race: our side, by its name in microgpt_ours.py, and the peers with the same model."""

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
    """Race the peers of a case for which a command is given, and return the record."""
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
    return shlex.join(module_command("bench.scalar.microgpt_ours", case, "--data", names))


def print_case(record: dict[str, Any]) -> None:
    """Print the table of one case: every side, its share of the machine's limit, and the limit."""
    limit = record["limit"]
    print(f"{record['case']}: {STEPS} steps, best (median) of {record['rounds']} rounds")
    for side, row in record["sides"].items():
        print(
            f"  {side:20} {row['step_us_best']:8.1f} us ({row['step_us_median']:.1f}) per step by "
            f"{row['steps_timed_by']}; {row['process_s_best']:.3f} s "
            f"({row['process_s_median']:.3f}) per process; "
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
            f"{floor['calls']} consecutive calls, {floor['ns_per_call']:.0f} ns each, and "
            f"Adam {floor['adam_us']:.1f} us"
        )


def add_limits(records: list[dict[str, Any]], peaks: dict[str, Any], names: Path) -> None:
    """Add to each case the step time that this core's peaks would allow (microgpt_limits.py)."""
    documents = documents_of(names)
    for record in records:
        case = next(case for case in CASES if case.title == record["case"])
        lengths = lengths_of(documents, STEPS, case.batch)
        record["limit"] = limit(case.n_embd, lengths, case.dtype, peaks)
        record["limit"]["share_reached"] = {
            side: record["limit"]["limit_us"] / row["step_us_best"]
            for side, row in record["sides"].items()
        }
        if case.batch == 1 and "ours" in record["sides"]:
            record["floor"] = measure_floor(names, case.ours, case.dtype)


def compare_padding(names: Path) -> dict[str, Any]:
    """Count the padding in 200 batches of 16 shuffled documents, for this processor's vectors."""
    lanes = 16 if "avx512f" in cpu_features() else 8 if "avx2" in cpu_features() else 4
    lengths = lengths_of(documents_of(names), 200, 16, shuffled=True)
    shares = padding(16, lengths, lanes)
    print(f"padding of 200 batches of 16 documents, vectors of {lanes} lanes, share of lane work:")
    print(f"  ours {shares['ours']:.1%}, one document per lane {shares['documents_alone']:.1%}")
    return {"batches": 200, "documents": 16, "lanes": lanes, **shares}


def main() -> None:
    parser = command_parser(__doc__)
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
    parser.add_argument("--peers-only", action="store_true", help="race without our side")
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
    # Measured before and after the races; the better counts, because the machine may be busy.
    record["peaks_of_one_core"] = peaks = best_of(peaks, measured_alone())
    print("one core:", json.dumps(peaks))
    add_limits(record["cases"], peaks, names)
    for case in record["cases"]:
        print_case(case)
    print(write_result("scalar/microgpt", record))


if __name__ == "__main__":
    main()
