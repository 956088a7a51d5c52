"""The start of `nanochat train` on the tensor engine, against the import of torch alone.

    python -m bench.tensor.start --text FILE [--rounds 7] [-- TRAINING OPTIONS]

    python -m bench.tensor.start --text FILE -- --preset nano --ngram-order 6

Each round runs three new processes: one that imports torch, one that trains up to its first step,
and one that does the same but imports torch before it reads the text, as a single thread does.
Seconds count from the start of the process, that of Python included. Writes
results/tensor/start.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.command import command_parser
from bench.machine import write_result

TORCH = "import torch"
# Ends where the training loop would begin.
TRAIN = """
import os, sys
from nanochat.commands import train
from nanochat.cli import main
train.train_loop = lambda *_, **__: os._exit(0)
main(sys.argv[1:])
os._exit(1)
"""
IN_ORDER = "import nanochat.tensor.engine\n"
SIDES = {"torch": TORCH, "train": TRAIN, "in_order": IN_ORDER + TRAIN}


def seconds(code: str, arguments: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        took = time.perf_counter() - began
    if ended.returncode:
        raise SystemExit(f"error: a process ended with {ended.returncode}: {ended.stderr[-500:]}")
    return took


def parsed() -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("train", nargs="*", help="after --: options of nanochat train")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    arguments = ["train", "--mode", "tensor", "--data", str(options.text.absolute())]
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side, code in SIDES.items():
            times[side].append(seconds(code, [*arguments, *options.train]))
    medians = {f"{side}_s": statistics.median(each) for side, each in times.items()}
    record = {
        **medians, "after_torch_s": medians["train_s"] - medians["torch_s"],
        "rounds": options.rounds, "text": options.text.name, "options": options.train,
    }  # fmt: skip
    print(
        f"import of torch {medians['torch_s']:.2f} s, start {medians['train_s']:.2f} s"
        f" ({record['after_torch_s']:.2f} s more), in order {medians['in_order_s']:.2f} s"
    )
    print("wrote", write_result("tensor/start", record))


if __name__ == "__main__":
    main()
