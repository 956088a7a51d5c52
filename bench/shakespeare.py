"""nanoGPT's CPU recipe for Shakespeare beside `nanochat train --preset nano`, in turn, in one run.

    python bench/shakespeare.py --nanogpt CHECKOUT --data FOLDER [--repeats N]

CHECKOUT is a nanoGPT checkout, run unmodified with the command of its README; FOLDER holds
tinyshakespeare.txt. Both are whole processes, from start to end, on the same bytes; nanoGPT's own
loss estimate is of 20 random batches, ours of all validation bytes in disjoint windows.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import write_result

RECIPE = [
    "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20",
    "--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4",
    "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0",
]  # fmt: skip


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds of the whole process, and what it printed on stdout."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


def prepare_nanogpt(checkout: Path, text: Path, folder: Path) -> Path:
    """A copy of the checkout with its data made by its own script."""
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy)
    data = copy / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    timed([sys.executable, "prepare.py"], data)
    return copy


def run_nanogpt(copy: Path) -> dict[str, Any]:
    seconds, printed = timed([sys.executable, "train.py", *RECIPE], copy)
    losses = re.findall(r"step \d+: train loss [\d.]+, val loss ([\d.]+)", printed)
    steps = [float(ms) for ms in re.findall(r"time ([\d.]+)ms", printed)]
    return {
        "seconds": seconds,
        "val_loss": float(losses[-1]),
        "ms_per_step": statistics.median(steps),
    }


def run_ours(data: Path, folder: Path, number: int, options: list[str]) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "nanochat", "train", "--preset", "nano", "--data-dir", str(data),
        "--out", f"run{number}", "--json", "--quiet", *options,
    ]  # fmt: skip
    seconds, printed = timed(command, folder)
    metrics = json.loads(printed)["metrics"]
    return {
        "seconds": seconds,
        "val_loss": metrics["val_loss"],
        "ms_per_step": 1e3 / metrics["steps_per_sec"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nanogpt", type=Path, required=True, help="checkout of karpathy/nanoGPT")
    parser.add_argument("--data", type=Path, required=True, help="folder with tinyshakespeare.txt")
    parser.add_argument("--repeats", type=int, default=1)
    known, options = parser.parse_known_args()
    rows: dict[str, list[dict[str, Any]]] = {"nanoGPT": [], "nanochat": []}
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), known.data.resolve()
        copy = prepare_nanogpt(known.nanogpt.resolve(), data / "tinyshakespeare.txt", folder)
        for number in range(known.repeats):
            rows["nanoGPT"].append(run_nanogpt(copy))
            rows["nanochat"].append(run_ours(data, folder, number, options))
            for side, runs in rows.items():
                print(side, " ".join(f"{k}={v:.4g}" for k, v in runs[-1].items()), flush=True)
    medians = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for side, runs in rows.items()
    }
    ratio = medians["nanoGPT"]["seconds"] / medians["nanochat"]["seconds"]
    print(f"nanoGPT / nanochat, whole process: {ratio:.2f}")
    record = {
        "recipe": RECIPE,
        "options": options,
        "runs": rows,
        "medians": medians,
        "ratio": ratio,
    }
    print(write_result("shakespeare", record))


if __name__ == "__main__":
    main()
