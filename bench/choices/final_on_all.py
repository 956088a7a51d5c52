"""Whether `--final-on-all` pays: a run that keeps a validation part, and one on all of its text.

    python -m bench.choices.final_on_all FILE [FILE …] [--seeds 3] [--train OPTION …]

The last tenth of each text is scored at the end and chooses nothing. For each text and seed, one
run trains on the rest with its own validation part, and another repeats it on the whole rest with
`--final-on-all`. Prints nats per byte of both on the scored tenth and the paired difference with
its 95 % interval, and writes results/choices/final_on_all.json.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from bench.choices.texts import run_nanochat
from bench.command import command_parser
from bench.machine import write_result
from bench.race.statistics import paired_difference

FIRST_SEED = 1
SIDES = ("validated", "on_all")
OPTIONS = ["--preset", "small", "--steps", "440", "--lr", "0.008", "--weight-decay", "0.5"]


def without_end(text: Path, folder: Path) -> tuple[Path, Path]:
    """Write the first nine tenths of a text's characters and the rest, as two files."""
    content = text.read_text(encoding="utf-8")
    end = len(content) * 9 // 10
    train, scored = folder / f"{text.stem}-train.txt", folder / f"{text.stem}-scored.txt"
    train.write_text(content[:end], encoding="utf-8")
    scored.write_text(content[end:], encoding="utf-8")
    return train, scored


def nats_per_byte(run: Path, scored: Path) -> float:
    score = json.loads(run_nanochat("eval", run, "--json", "--data", scored, "--documents=file"))
    return float(score["bpb"]) * math.log(2)


def parsed(doc: str | None, train: list[str]) -> argparse.Namespace:
    """Parse texts, --seeds and --train, whose default is `train`."""
    parser = command_parser(doc)
    parser.add_argument("texts", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--train", nargs=argparse.REMAINDER, default=train, metavar="OPTION",
        help="options of nanochat train, up to the end of the command",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    options = parsed(__doc__, OPTIONS)
    pairs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for text in options.texts:
            train, scored = without_end(text, Path(name))
            for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
                run, final = (Path(name) / f"{text.stem}-{seed}-{side}" for side in SIDES)
                run_nanochat(
                    "train", train, "--documents=file", *options.train, "--num-samples=0",
                    f"--seed={seed}", f"--out={run}",
                )  # fmt: skip
                run_nanochat("train", f"--final-on-all={run}", "--num-samples=0", f"--out={final}")
                pair = {"text": text.name, "seed": seed}
                for side, path in zip(SIDES, (run, final), strict=True):
                    pair[side] = nats_per_byte(path, scored)
                pairs.append(pair)
                print(pair)
    mean, half = paired_difference(*([pair[side] for pair in pairs] for side in SIDES[::-1]))
    print(f"on all less validated: {mean:+.3f} ± {half:.3f} nats per byte, {len(pairs)} pairs")
    record = {
        "train": options.train, "pairs": pairs, "difference": mean, "interval": half,
    }  # fmt: skip
    print("wrote", write_result("choices/final_on_all", record))


if __name__ == "__main__":
    main()
