"""What `eval --adapt` gains, compared with the same model frozen and with PPMd, which also adapts.

    python -m bench.choices.adaptive FILE [FILE …] [--seeds 3] [--train OPTION …]

The last tenth of each text is scored at the end and chooses nothing. For each text and seed, one
model trains on all of the rest as a whole process. `nanochat eval` then scores the last tenth with
the frozen model, with `--adapt` and with the compressors of `--baselines`. Prints nats per byte and
seconds, and writes results/choices/adaptive.json.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.choices.final_on_all import FIRST_SEED, parsed, without_end
from bench.choices.texts import run_nanochat
from bench.machine import write_result

OPTIONS = ["--preset", "small", "--steps", "2200", "--lr", "0.006", "--weight-decay", "0.5"]


def measure(train: Path, scored: Path, seed: int, options: list[str], run: Path) -> dict[str, Any]:
    began = time.perf_counter()
    run_nanochat(
        "train", train, "--documents=file", "--val-fraction=0", "--num-samples=0", *options,
        f"--seed={seed}", f"--out={run}",
    )  # fmt: skip
    trained = time.perf_counter()
    text = ("--json", "--data", scored, "--documents=file")
    adaptive = json.loads(run_nanochat("eval", run, "--adapt", *text))
    adapted = time.perf_counter()
    frozen = json.loads(run_nanochat("eval", run, "--baselines", *text))
    ppmd = next(row for row in frozen["baselines"] if row["name"] == "PPMd")
    return {
        "seed": seed, "train_s": trained - began, "adapt_s": adapted - trained,
        "frozen": frozen["bpb"] * math.log(2), "adaptive": adaptive["bpb"] * math.log(2),
        "ppmd": ppmd["nats_per_byte"],
    }  # fmt: skip


def main() -> None:
    options = parsed(__doc__, OPTIONS)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for text in options.texts:
            train, scored = without_end(text, Path(name))
            for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
                run = Path(name) / f"{text.stem}-{seed}"
                row = {"text": text.name, **measure(train, scored, seed, options.train, run)}
                rows.append(row)
                print(row)
    print("wrote", write_result("choices/adaptive", {"train": options.train, "runs": rows}))


if __name__ == "__main__":
    main()
