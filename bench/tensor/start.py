"""The start of `nanochat train` on the tensor engine, against the import of torch alone.

    python -m bench.tensor.start --text FILE [--rounds 7] [-- TRAINING OPTIONS]

    python -m bench.tensor.start --text FILE -- --preset nano --ngram-order 6

Each round starts three new processes: one that imports torch, the command up to the line that
describes the text, which comes right before its first step, and one that does the same but imports
torch first, as a single thread does. Seconds count from the start of the process, that of Python
included, to the line. Writes results/tensor/start.json.
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

LINE = "to train on,"  # of the description of the text
TORCH = f"import torch; print({LINE!r}, flush=True)"
TRAIN = "import sys; from nanochat.cli import main; sys.exit(main(sys.argv[1:]))"
IN_ORDER = "import nanochat.tensor.engine; "
SIDES = {"torch": TORCH, "train": TRAIN, "in_order": IN_ORDER + TRAIN}


def seconds(code: str, arguments: list[str]) -> float:
    """Return the time until the process prints LINE, and end it there."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None  # opened above
        printed = []
        for line in process.stdout:
            printed.append(line)
            if LINE in line:
                took = time.perf_counter() - began
                process.kill()
                process.communicate()
                return took
    raise SystemExit(f"error: a process ended before its first step: {''.join(printed)[-500:]}")


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
