"""The race: `nanochat train` compared with its peers on the same bytes, in turn.

    python -m bench.race --text FILE [--nanogpt CHECKOUT] [--nanochat CHECKOUT]
        [--ours "NAME=OPTIONS"]… [--nanogpt-entry "NAME=OPTIONS"]… [--nanochat-entry …]… [--quick]
    python -m bench.race --text NAMES --lines [--eemicrogpt CHECKOUT] [--compiler COMMAND] …
    python -m bench.race @bench/race/entries/NAME.args --text FILE --PEER CHECKOUT

The last form reads the entries of a recorded race from a file. CHECKOUT is a folder or
URL@REVISION. Every side is trained on the first nine tenths of FILE. One scorer (scorer.py) scores
all sides on the rest, in disjoint windows of each side's own context. With --lines, each line is a
document, and the lines are sorted by their hashes first, without copies unless --keep-copies. With
--final, ours never sees the rest: it trains on all of the training part, without validation, and
its last step is scored. An entry of ours is compared with the peer's entry of the same name, or
with the first entry of the first peer if there is none.

Seconds are those of whole processes, including imports, data, tokenizer and evaluations, with empty
caches. Seeds are fixed beforehand. A side that fails, exceeds --timeout or is not available is
recorded with the reason, and the others continue. Writes results/race/NAME.{json,csv,md,png} after
each run. A --quick race writes them to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.command import ROOT, command_parser, module_environment
from bench.machine import RESULTS
from bench.race.data import RaceText, prepare_lines, prepare_text
from bench.race.entrants import (
    Eemicrogpt,
    Nanochat,
    NanoGPT,
    Ours,
    OursOfBpe,
    OursOfLines,
    OursWithoutValidation,
    checkout_of,
    prepare_eemicrogpt,
    prepare_nanochat,
    prepare_nanogpt,
)
from bench.race.report import summarise, table, write_report
from bench.race.sides import Entrant, Run, Side, run
from nanochat.system.environment import describe_environment

# The first reaches nanoGPT's final score in a few seconds; the second uses its wall time.
OURS = ("fast=--preset nano --steps 130 --lr 0.006", "long=--preset nano --steps 4000")
OURS_OF_LINES = ("scalar=--mode scalar --preset pico --n-embd 32",)
Prepare = Callable[[Path, str, RaceText, Path], Entrant]
# How each peer is prepared, and whether its documents are lines.
PEERS: dict[str, tuple[Prepare, bool]] = {
    "nanogpt": (prepare_nanogpt, False),
    "nanochat": (prepare_nanochat, False),
    "eemicrogpt": (prepare_eemicrogpt, True),
}
RECIPES = (NanoGPT, Nanochat, Eemicrogpt)
COMPILER = "gcc -O3 -march=native -ffast-math"  # add -I for SIMDe where NEON is missing
# Options of a quick race, which follow a side's own.
QUICK = {
    "ours": ("--steps=20",),
    "nanogpt": ("--max_iters=20", "--lr_decay_iters=20", "--eval_interval=20", "--eval_iters=2"),
    "nanochat": (
        "--depth=1", "--max-seq-len=64", "--device-batch-size=4", "--total-batch-size=256",
        "--num-iterations=4",
    ),
    "eemicrogpt": ("-DN_STEPS=20",),
}  # fmt: skip


def main() -> None:
    options = parsed()
    if options.require_gpu and not torch.cuda.is_available():
        raise SystemExit("--require-gpu needs a GPU that torch finds")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.lines:
            text = prepare_lines(
                options.text, folder, Eemicrogpt.LONGEST, keep_copies=options.keep_copies
            )
        else:
            text = prepare_text(options.text, folder)
        sides = sides_of(options, text, folder)
        record = race(sides, text, folder, options)
    print(table(record["summary"]))
    if not any(row["finished"] for row in record["summary"] if row["side"].startswith("ours ")):
        raise SystemExit("no run of ours was scored")


def parsed() -> argparse.Namespace:
    parser = command_parser(__doc__, fromfile_prefix_chars="@")
    parser.convert_arg_line_to_args = words_of_line
    add = parser.add_argument
    add("--text", type=Path, required=True, help="ASCII text")
    add("--lines", action="store_true", help="one document per line; for eemicrogpt")
    add("--keep-copies", action="store_true", help="with --lines: keep lines that occur again")
    add("--final", action="store_true", help="ours chooses nothing by the scored part")
    add(
        "--ours",
        action="append",
        metavar="NAME=OPTIONS",
        help="an entry of ours: options of nanochat train",
    )
    for peer in PEERS:
        add(f"--{peer}", metavar="CHECKOUT", help="folder or URL@REVISION")
        if peer == "eemicrogpt":
            add(
                "--compiler",
                dest="eemicrogpt_with",
                default=COMPILER,
                help="compiler and its flags",
            )
        else:
            add(
                f"--{peer}-python", dest=f"{peer}_with", default=sys.executable,
                help="interpreter of its environment",
            )  # fmt: skip
        add(
            f"--{peer}-entry", action="append", metavar="NAME=OPTIONS",
            help="options added to its documented recipe; default: none",
        )  # fmt: skip
    add("--seeds", type=int, default=5, help="of our entries: 1, 2, …")
    add("--peer-seeds", type=int, default=3)
    add("--timeout", type=float, default=600.0, help="seconds per run")
    add("--name", default="peers", help="of the files in results/race")
    add("--title", default="Shakespeare, two cores")
    add("--quick", action="store_true", help="one seed and a few steps per side; keeps no results")
    add("--require-gpu", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args()
    for peer, (_, of_lines) in PEERS.items():
        if getattr(options, peer) and of_lines != options.lines:
            raise SystemExit(f"--{peer} must be {'with' if of_lines else 'without'} --lines")
    return options


def words_of_line(line: str) -> list[str]:
    """Split a line of an @FILE into words as a shell does. # starts a comment."""
    return shlex.split(line, comments=True)


def sides_of(options: argparse.Namespace, text: RaceText, folder: Path) -> list[Side]:
    """Return all sides, peers first. A quick race has one seed and a few steps."""
    seeds, peer_seeds = (
        tuple(range(1, 1 + (1 if options.quick else count)))
        for count in (options.seeds, options.peer_seeds)
    )
    sides: list[Side] = []
    for peer, (prepare, of_lines) in PEERS.items():
        if of_lines != options.lines:
            continue
        source, entrant = getattr(options, peer), None
        if source:
            entrant = prepare(
                checkout_of(source, folder), getattr(options, f"{peer}_with"), text, folder
            )
        for name, arguments in entries(getattr(options, f"{peer}_entry") or ["documented="]):
            extra = QUICK[peer] if options.quick else ()
            sides.append(Side(f"{peer} {name}", peer, entrant, (*arguments, *extra), peer_seeds))
    for name, arguments in entries(options.ours or (OURS_OF_LINES if options.lines else OURS)):
        if options.quick:  # an option may be given only once
            kept = shlex.split(re.sub(r"--steps[ =]\d+", "", shlex.join(arguments)))
            arguments = (*kept, *QUICK["ours"])
        entrant = ours(arguments, options.lines, options.final)
        sides.append(Side(f"ours {name}", "ours", entrant, arguments, seeds))
    return sides


def ours(arguments: Sequence[str], lines: bool, final: bool) -> Ours:
    if lines:
        return OursOfLines()
    if final:
        return OursWithoutValidation()
    return OursOfBpe() if {"bpe", "small"} & set(arguments) else Ours()


def entries(given: list[str] | tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Split each NAME=OPTIONS. Raises SystemExit for an entry without a name."""
    found = []
    for entry in given:
        name, equals, words = entry.partition("=")
        if not equals or not name or name.startswith("-"):
            raise SystemExit(f"an entry must be NAME=OPTIONS, got {entry!r}")
        found.append((name, tuple(shlex.split(words))))
    return found


def race(
    sides: list[Side], text: RaceText, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Run every seed of every side: the first seed of each side, then the second, and so on."""
    results = folder / "results" if options.quick else RESULTS / "race"
    (folder / "validation.txt").write_bytes(text.val)
    record: dict[str, Any] = {
        "name": options.name,
        "title": options.title,
        "quick": options.quick,
        "text": text.record(),
        "sides": [describe(side, options) for side in sides],
        "recipes": {entrant.__name__: list(entrant.RECIPE) for entrant in RECIPES},
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "environment": describe_environment(0),
        "runs": [],
        "summary": [],
    }
    reference = next((side.name for side in sides if side.entrant), "")
    for number in range(max(len(side.seeds) for side in sides)):
        for side in sides:
            if number >= len(side.seeds):
                continue
            done = run(side, side.seeds[number], text, folder, options.timeout)
            record["runs"].append(scored(side, done, folder / "validation.txt"))
            record["summary"] = summarise(record["runs"], reference)
            write_report(record, results)
            print(outcome(record["runs"][-1]), flush=True)
    return record


def describe(side: Side, options: argparse.Namespace) -> dict[str, Any]:
    source = str(ROOT) if side.kind == "ours" else getattr(options, side.kind)
    return {
        "name": side.name, "kind": side.kind, "arguments": list(side.arguments),
        "seeds": list(side.seeds), "revision": _revision(source) if source else "",
    }  # fmt: skip


def _revision(source: str) -> str:
    if not Path(source).is_dir():
        return source.rpartition("@")[2]
    found = subprocess.run(
        ["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return found.stdout.strip()


def scored(side: Side, done: Run, validation: Path) -> dict[str, Any]:
    """Return the run's record with the score, or with the reason why there is none."""
    unscored = dict.fromkeys(("score", "bpb", "parameters", "context", "count_entries"))
    if side.entrant is None or done.checkpoint is None:
        return {**done.record(), **unscored}
    command = side.entrant.score_command(done.checkpoint, validation)
    finished = subprocess.run(command, env=module_environment(), capture_output=True, text=True)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["no output"])[-1]
        return {**done.fail("failed", f"not scored: {last}").record(), **unscored}
    score = json.loads(finished.stdout.splitlines()[-1])
    return {**done.record(), **{name: score[name] for name in unscored}}


def outcome(run: dict[str, Any]) -> str:
    if run["score"] is None:
        return f"{run['side']} seed {run['seed']}: {run['status']}: {run['reason']}"
    figures = f"{run['seconds']:.1f} s, {run['score']:.4f} nats per byte"
    return f"{run['side']} seed {run['seed']}: {figures}"


if __name__ == "__main__":
    main()
