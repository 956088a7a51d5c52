"""The race: `nanochat train` beside nanoGPT on the same bytes and machine, in turn, seed by seed.

    python bench/peers.py --text FILE --nanogpt CHECKOUT [--ours "NAME=OPTIONS"]… [--quick]

CHECKOUT is a folder or URL@REVISION. Every side is trained on the first nine tenths of FILE and
scored by one scorer (race_scorer.py) on all of the rest, in disjoint windows of --context bytes.
Seconds are those of whole processes, imports, data and evaluations included, with caches empty.
Seeds are listed beforehand; a side that fails, runs past --timeout or is not there stands in the
record with its reason, and the others go on. Writes results/NAME.{json,csv,md,png} after each run.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS
from race_data import RaceText, prepare_text
from race_report import summarise, table, write_report
from race_sides import NANOGPT_RECIPE, Run, Side, checkout_of, prepare_nanogpt, run

from nanochat.commands.environment import describe_environment

# nanoGPT's final score in a few seconds; its wall time used to the end.
OURS = ("fast=--preset nano --steps 200", "long=--preset nano --steps 3000")
QUICK = ("--max_iters=20", "--lr_decay_iters=20", "--eval_interval=20", "--eval_iters=2")


def main() -> None:
    options = parsed()
    if options.require_gpu and not torch.cuda.is_available():
        raise SystemExit("--require-gpu: torch finds no GPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = prepare_text(options.text, folder)
        (folder / "validation.txt").write_bytes(text.val)
        sides = sides_of(options, text, folder)
        record = race(sides, text, folder, options)
    print(table(record["summary"]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument(
        "--nanogpt", help="checkout, or URL@REVISION; without it the side is skipped"
    )
    parser.add_argument("--nanogpt-tuned", help="options for a second entry of nanoGPT")
    parser.add_argument("--ours", action="append", help="NAME=OPTIONS of nanochat train")
    parser.add_argument("--seeds", type=int, default=5, help="of ours: 1, 2, …")
    parser.add_argument("--peer-seeds", type=int, default=3)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a run")
    parser.add_argument("--name", default="peers")
    parser.add_argument("--title", default="Shakespeare, two cores")
    parser.add_argument("--quick", action="store_true", help="a few steps of each: does it run?")
    parser.add_argument("--require-gpu", action=argparse.BooleanOptionalAction, default=False)
    return parser.parse_args()


def sides_of(options: argparse.Namespace, text: RaceText, folder: Path) -> list[Side]:
    """All entrants. A quick race takes one seed and a few steps."""
    seeds, peer_seeds = (
        tuple(range(1, 1 + (1 if options.quick else count)))
        for count in (options.seeds, options.peer_seeds)
    )
    checkout, skipped = None, "" if options.nanogpt else "no --nanogpt was given"
    if options.nanogpt:
        checkout = prepare_nanogpt(checkout_of(options.nanogpt, folder), text, folder)
    shortened = QUICK if options.quick else ()
    sides = [Side("nanoGPT", "nanogpt", shortened, peer_seeds, checkout, skipped)]
    if options.nanogpt_tuned:
        tuned = (*shlex.split(options.nanogpt_tuned), *shortened)
        sides.append(Side("nanoGPT tuned", "nanogpt", tuned, peer_seeds, checkout, skipped))
    for entry in options.ours or OURS:
        name, equals, words = entry.partition("=")
        if not equals or not name:
            raise SystemExit(f"--ours takes NAME=OPTIONS, got {entry!r}")
        if options.quick:
            words = re.sub(r"--steps[ =]\d+", "", words) + " --steps 20"
        arguments = tuple(shlex.split(words))
        sides.append(Side(f"ours {name}", "ours", arguments, seeds))
    return sides


def race(
    sides: list[Side], text: RaceText, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": options.name,
        "title": options.title,
        "quick": options.quick,
        "context": options.context,
        "text": text.record(),
        "sides": [describe(side, options) for side in sides],
        "recipes": {"nanogpt": list(NANOGPT_RECIPE)},
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "environment": describe_environment(0),
        "runs": [],
        "summary": [],
    }
    for number in range(max(len(side.seeds) for side in sides)):
        for side in sides:
            if number >= len(side.seeds):
                continue
            done = run(side, side.seeds[number], text, folder, options.timeout)
            record["runs"].append(scored(side, done, folder, options.context))
            record["summary"] = summarise(record["runs"], sides[0].name)
            write_report(record, RESULTS)
            print(said(record["runs"][-1]), flush=True)
    return record


def describe(side: Side, options: argparse.Namespace) -> dict[str, Any]:
    where = Path(options.nanogpt or ".") if side.kind == "nanogpt" else Path(__file__).parent
    revision = "" if side.skipped else _revision(where)
    if side.kind == "nanogpt" and "@" in (options.nanogpt or ""):
        revision = options.nanogpt.rpartition("@")[2]
    return {
        "name": side.name, "kind": side.kind, "arguments": list(side.arguments),
        "seeds": list(side.seeds), "revision": revision,
    }  # fmt: skip


def _revision(folder: Path) -> str:
    found = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return found.stdout.strip()


def scored(side: Side, done: Run, folder: Path, context: int) -> dict[str, Any]:
    """The run's record with the external score, or with why there is none."""
    empty: dict[str, Any] = {"score": None, "bpb": None, "parameters": None}
    if done.status != "ok":
        return {**done.record(), **empty}
    scorer = Path(__file__).parent / "race_scorer.py"
    command = [
        sys.executable, str(scorer), side.kind, str(done.checkpoint),
        str(folder / "validation.txt"), str(context), *([str(side.checkout)] * bool(side.checkout)),
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["no output"])[-1]
        done.status, done.reason = "failed", f"not scored: {last[:300]}"
        return {**done.record(), **empty}
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
