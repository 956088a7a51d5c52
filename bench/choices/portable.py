"""What `--portable` costs: a preset's network without counts, and the portable one in equal time.

    python -m bench.choices.portable FILE [FILE …] [--preset nano] [--seeds 3]

For each text, the three networks first take 100 steps each in turn, three times, for the time of a
step. Then each seed trains the preset without counts, the same with the norm before the head, and
the portable network, with as many steps as fit into the time of the preset's. Prints the paired
differences of the validation loss of the best checkpoint, in nats per byte, with their 95 %
intervals, and writes results/choices/portable-PRESET.json.
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

FIRST_SEED = 1
SIDES = {
    "preset": ["--ngram-order=0"],
    "with the norm": ["--ngram-order=0", "--output-rmsnorm"],
    "portable": ["--portable"],
}


def trained(text: Path, out: Path, preset: str, side: str, steps: int, seed: int) -> dict[str, Any]:
    """Train one side and return the metrics of its run."""
    printed = run_nanochat(
        "train", text, "--mode=tensor", f"--preset={preset}", *SIDES[side], f"--steps={steps}",
        f"--seed={seed}", f"--out={out}", "--num-samples=0", "--json",
    )  # fmt: skip
    metrics: dict[str, Any] = json.loads(printed)["metrics"]
    return metrics


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("texts", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    from nanochat.config.options import PRESETS

    whole = PRESETS[options.preset]["steps"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for text in options.texts:
            rates: dict[str, list[float]] = {side: [] for side in SIDES}
            for at in range(3):
                for side, found in rates.items():
                    out = Path(name) / f"{text.stem}-{side}-{at}"
                    timed = trained(text, out, options.preset, side, 100, 0)
                    found.append(timed["steps_per_sec"])
            steps_per_s = {side: statistics.median(found) for side, found in rates.items()}
            for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
                row: dict[str, Any] = {"text": text.name, "seed": seed}
                for side, rate in steps_per_s.items():
                    steps = round(whole * rate / steps_per_s["preset"])
                    out = Path(name) / f"{text.stem}-{side}-of-{seed}"
                    trained(text, out, options.preset, side, steps, seed)
                    bpb = json.loads(run_nanochat("eval", out, "--json"))["bpb"]
                    row[side] = {"steps": steps, "nats_per_byte": bpb * math.log(2)}
                rows.append(row)
                print(row, flush=True)
    record: dict[str, Any] = {"preset": options.preset, "rows": rows}
    for side in list(SIDES)[1:]:
        nats = ([row[each]["nats_per_byte"] for row in rows] for each in (side, "preset"))
        mean, half = paired_difference(*nats)
        record[side] = {"difference": mean, "interval": half}
        print(f"{side} less preset: {mean:+.3f} ± {half:.3f} nats per byte, {len(rows)} pairs")
    print("wrote", write_result(f"choices/portable-{options.preset}", record))


if __name__ == "__main__":
    main()
