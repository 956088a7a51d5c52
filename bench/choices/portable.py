"""What `--portable` costs, and the norm before the head alone: pairs of networks in equal time.

    python -m bench.choices.portable FILE [FILE …] [--preset nano] [--seeds 3] [--timed 100]

- norm: the preset as it is, with its counts, and the same with the norm before the head.
- portable: the best network of the preset without counts, and the portable one. In `nano`, the best
  one reads word pieces as the portable one does, with a table of previous tokens.

For each text, the networks first take --timed steps each in turn, five times, for the time of one.
Then each seed trains them; the second one of a pair takes as many steps as fit into the time of the
first one. Prints the paired differences of the validation loss of the best checkpoint, in nats per
byte, with their 95 % intervals, and writes results/choices/portable-PRESET.json.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench.choices.texts import run_nanochat
from bench.command import command_parser
from bench.machine import write_result
from bench.race.statistics import paired_difference

FIRST_SEED, TIMES = 1, 5
_PIECES = ["--tokenizer=bpe", "--vocab-size=1024", "--hash-embed-rows=0", "--prev-token-tables=1"]
BEST = {"nano": _PIECES}  # of networks without counts: what other options than the preset's do
PAIRS = {"norm": ("preset", "preset with the norm"), "portable": ("best network", "portable")}


def sides(preset: str) -> dict[str, list[str]]:
    """Return the options of each network that is trained."""
    return {
        "preset": [],
        "preset with the norm": ["--output-rmsnorm"],
        "best network": ["--ngram-order=0", *BEST.get(preset, [])],
        "portable": ["--portable"],
    }


def trained(text: Path, out: Path, preset: str, words: list[str], steps: int, seed: int) -> Any:
    """Train one side and return the metrics of its run."""
    printed = run_nanochat(
        "train", text, "--mode=tensor", f"--preset={preset}", *words, f"--steps={steps}",
        f"--seed={seed}", f"--out={out}", "--num-samples=0", "--no-baseline", "--json",
    )  # fmt: skip
    return json.loads(printed)["metrics"]


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("texts", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=100, help="steps; more for a small network")
    options = parser.parse_args()
    from nanochat.config.options import PRESETS

    whole, of_sides = PRESETS[options.preset]["steps"], sides(options.preset)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for text in options.texts:
            rates: dict[str, list[float]] = {side: [] for side in of_sides}
            for at in range(TIMES):
                for side, found in rates.items():
                    out = Path(name) / f"{text.stem}-{side}-{at}"
                    timed = trained(text, out, options.preset, of_sides[side], options.timed, 0)
                    found.append(timed["steps_per_sec"])
            steps_per_s = {side: statistics.median(found) for side, found in rates.items()}
            steps = {}
            for first, second in PAIRS.values():
                steps[first] = whole
                steps[second] = round(whole * steps_per_s[second] / steps_per_s[first])
            for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
                row: dict[str, Any] = {"text": text.name, "seed": seed}
                for side, words in of_sides.items():
                    out = Path(name) / f"{text.stem}-{side}-of-{seed}"
                    trained(text, out, options.preset, words, steps[side], seed)
                    bpb = json.loads(run_nanochat("eval", out, "--json"))["bpb"]
                    row[side] = {"steps": steps[side], "nats_per_byte": bpb * math.log(2)}
                rows.append(row)
                print(row, flush=True)
    record: dict[str, Any] = {"preset": options.preset, "timed": options.timed, "rows": rows}
    for cost, (first, second) in PAIRS.items():
        nats = ([row[side]["nats_per_byte"] for row in rows] for side in (second, first))
        mean, half = paired_difference(*nats)
        record[cost] = {"difference": mean, "interval": half}
        print(
            f"{cost}: {second} less {first}: {mean:+.3f} ± {half:.3f} nats per byte,"
            f" {len(rows)} pairs"
        )
    print("wrote", write_result(f"choices/portable-{options.preset}", record))


if __name__ == "__main__":
    main()
