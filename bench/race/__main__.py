"""The race: `nanochat train` beside its peers on the same bytes, in turn.

    python -m bench.race --text FILE [--nanogpt CHECKOUT] [--nanochat CHECKOUT]
        [--ours "NAME=OPTIONS"]… [--nanogpt-entry "NAME=OPTIONS"]… [--nanochat-entry …]… [--quick]
    python -m bench.race --text NAMES --lines [--eemicrogpt CHECKOUT] [--compiler COMMAND] …
    python -m bench.race @bench/race/entries/NAME.args --text FILE --PEER CHECKOUT

The last form takes the entries of a race that results/ has a record of from their file. CHECKOUT is
a folder or URL@REVISION. Every side is trained on the first nine tenths of FILE and scored by one
scorer (race_scorer.py) on all of the rest, in disjoint windows of its own context; with --lines
each line is a document, and the lines are put in the order of their hashes first. An entry of ours
is compared with the peer's entry of its name, or else with the first peer's first.
Seconds are those of whole processes, imports, data, tokenizer and evaluations included, with
caches empty. Seeds are listed beforehand; a side that fails, runs past --timeout or is not there
stands in the record with its reason, and the others go on. Writes results/race/NAME.{json,csv,md,png}
after each run.
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

from bench.machine import RESULTS
from bench.race.data import RaceText, prepare_lines, prepare_text
from bench.race.entrants import (
    Eemicrogpt,
    Nanochat,
    NanoGPT,
    Ours,
    OursOfLines,
    OursOfPieces,
    checkout_of,
    prepare_eemicrogpt,
    prepare_nanochat,
    prepare_nanogpt,
)
from bench.race.report import summarise, table, write_report
from bench.race.sides import Entrant, Run, Side, run
from nanochat.system.environment import describe_environment

# nanoGPT's final score in a few seconds; its wall time used to the end.
OURS = ("fast=--preset nano --steps 130 --lr 0.006", "long=--preset nano --steps 4000")
OURS_OF_LINES = ("scalar=--mode scalar --preset pico --n-embd 32",)
Prepare = Callable[[Path, str, RaceText, Path], Entrant]
# How each peer is made ready, and whether its documents are lines.
PEERS: dict[str, tuple[Prepare, bool]] = {
    "nanogpt": (prepare_nanogpt, False),
    "nanochat": (prepare_nanochat, False),
    "eemicrogpt": (prepare_eemicrogpt, True),
}
RECIPES = (NanoGPT, Nanochat, Eemicrogpt)
COMPILER = "gcc -O3 -march=native -ffast-math"  # add -I for SIMDe where NEON is missing
# What a side of a quick race is given after its own options.
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
        raise SystemExit("--require-gpu: torch finds no GPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.lines:
            text = prepare_lines(options.text, folder, Eemicrogpt.LONGEST)
        else:
            text = prepare_text(options.text, folder)
        sides = sides_of(options, text, folder)
        record = race(sides, text, folder, options)
    print(table(record["summary"]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        fromfile_prefix_chars="@",
    )  # fmt: skip
    parser.convert_arg_line_to_args = words_of_line
    add = parser.add_argument
    add("--text", type=Path, required=True, help="ASCII text")
    add("--lines", action="store_true", help="each line is a document; the race with eemicrogpt")
    add("--ours", action="append", metavar="NAME=OPTIONS", help="of nanochat train")
    for peer in PEERS:
        add(f"--{peer}", metavar="CHECKOUT", help="folder or URL@REVISION")
        if peer == "eemicrogpt":
            add("--compiler", dest="eemicrogpt_with", default=COMPILER, help="and its flags")
        else:
            add(
                f"--{peer}-python", dest=f"{peer}_with", default=sys.executable,
                help="interpreter of its environment",
            )  # fmt: skip
        add(
            f"--{peer}-entry", action="append", metavar="NAME=OPTIONS",
            help="beside its documented recipe's; default: that alone",
        )  # fmt: skip
    add("--seeds", type=int, default=5, help="of ours: 1, 2, …")
    add("--peer-seeds", type=int, default=3)
    add("--timeout", type=float, default=600.0, help="seconds a run")
    add("--name", default="peers")
    add("--title", default="Shakespeare, two cores")
    add("--quick", action="store_true", help="a few steps of each: does it run?")
    add("--require-gpu", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args()
    for peer, (_, of_lines) in PEERS.items():
        if getattr(options, peer) and of_lines != options.lines:
            raise SystemExit(f"--{peer} must be {'with' if of_lines else 'without'} --lines")
    return options


def words_of_line(line: str) -> list[str]:
    """The words of a line of an @FILE, as a shell reads them; # begins a comment."""
    return shlex.split(line, comments=True)


def sides_of(options: argparse.Namespace, text: RaceText, folder: Path) -> list[Side]:
    """All entrants, peers first. A quick race takes one seed and a few steps."""
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
        if options.quick:  # our own options may be given once
            kept = shlex.split(re.sub(r"--steps[ =]\d+", "", shlex.join(arguments)))
            arguments = (*kept, *QUICK["ours"])
        sides.append(Side(f"ours {name}", "ours", ours(arguments, options.lines), arguments, seeds))
    return sides


def ours(arguments: Sequence[str], lines: bool) -> Ours:
    if lines:
        return OursOfLines()
    return OursOfPieces() if {"bpe", "small"} & set(arguments) else Ours()


def entries(given: list[str] | tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """NAME=OPTIONS, each apart. Raises SystemExit for an entry without a name."""
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
    """Every seed of every side, a seed of each in turn."""
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
            write_report(record, RESULTS / "race")
            print(said(record["runs"][-1]), flush=True)
    return record


def describe(side: Side, options: argparse.Namespace) -> dict[str, Any]:
    source = str(Path(__file__).parent) if side.kind == "ours" else getattr(options, side.kind)
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
    """The run's record with the external score, or with why there is none."""
    empty: dict[str, Any] = {"score": None, "bpb": None, "parameters": None, "context": None}
    if side.entrant is None or done.checkpoint is None:
        return {**done.record(), **empty}
    command = side.entrant.score_command(done.checkpoint, validation)
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["no output"])[-1]
        return {**done.fail("failed", f"not scored: {last}").record(), **empty}
    score = json.loads(finished.stdout.splitlines()[-1])
    return {**done.record(), **{name: score[name] for name in empty}}


def said(run: dict[str, Any]) -> str:
    if run["score"] is None:
        return f"{run['side']} seed {run['seed']}: {run['status']}: {run['reason']}"
    return (
        f"{run['side']} seed {run['seed']}: {run['seconds']:.1f} s, {run['score']:.4f} nats a byte"
    )


if __name__ == "__main__":
    main()
