"""What `nanochat train --record auto` costs: whole runs with and without it, in turn.

    python -m bench.inspection.recording [--rounds 9]

The runs are the default command on the embedded names, the same on each engine, and preset
microgpt. Both sides train the same weights, which is checked. Timed are the whole process and the
training alone. Writes results/inspection/recording.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench.command import command_parser, module_command, module_environment
from bench.machine import write_result

RUNS: dict[str, list[str]] = {
    "default": [],
    "scalar": ["--mode=scalar"],
    "tensor": ["--mode=tensor"],
    "microgpt": ["--mode=scalar", "--preset=microgpt"],
}
SIDES = {"plain": "none", "recorded": "auto"}


def train(options: list[str], record: str, out: Path) -> dict[str, float]:
    """Train in a process; return the seconds of the process and of training alone."""
    words = module_command(
        "nanochat", "train", *options, "--num-samples=0", "--quiet", "--json",
        f"--record={record}", "--out", out,
    )  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(words, env=module_environment(), check=True, capture_output=True)
    process_s = time.perf_counter() - began
    metrics = json.loads(done.stdout)["metrics"]
    return {"process_s": process_s, "training_s": metrics["steps"] / metrics["steps_per_sec"]}


def weights(out: Path) -> bytes:
    newest = sorted(out.glob("checkpoints/step-*/weights.safetensors"))[-1]
    return newest.read_bytes()


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    record: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for label, given in RUNS.items():
            times: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for number in range(options.rounds):
                found = []
                for side, choice in SIDES.items():
                    out = Path(name, f"{label}-{side}-{number}")
                    times[side].append(train(given, choice, out))
                    found.append(weights(out))
                assert found[0] == found[1], "recording must not change a run"
            figures = {
                f"{side}_{key}": statistics.median(each[key] for each in rounds)
                for side, rounds in times.items()
                for key in rounds[0]
            }
            pairs = zip(times["plain"], times["recorded"], strict=True)
            figures["ratio"] = statistics.median(b["process_s"] / a["process_s"] for a, b in pairs)
            record[label] = figures
            print(label, {key: round(value, 4) for key, value in figures.items()})
    write_result("inspection/recording", {"rounds": options.rounds, "runs": record})


if __name__ == "__main__":
    main()
