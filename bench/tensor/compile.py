"""Steps as they are against steps through torch.compile: what the default of --compile stands on.

    python -m bench.tensor.compile [--rounds 3]

Each case runs in processes of its own, off and on in turn: the first step (compiling included, from
an empty cache of the compiler's, and once more from the cache that this left) and the median of the
steps after it. Break-even is the number of steps from which compiling would have paid. Writes
results/tensor/compile.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from bench.machine import write_result

STEPS = 60  # timed, after WARM_STEPS
WARM_STEPS = 8
CASES: dict[str, dict[str, Any]] = {
    "nano": {"preset": "nano"},
    "nano, dropout 0.1": {"preset": "nano", "dropout": 0.1},
    "nano, plain torch loss": {"preset": "nano", "loss": "torch"},
    "nano, context 1024": {"preset": "nano", "block_size": 1024, "batch_size": 2},
    "small": {"preset": "small", "tokenizer": "byte"},  # its pieces take time to learn, not to run
}


def text() -> str:
    """A megabyte of lines of a few hundred words: the time of a step is not in the words."""
    words = [f"{a}{b}{c}" for a in "bdfgklmnpr" for b in "aeiou" for c in "lmnrst"]
    return "".join(
        words[(i * 7919 + i * i) % len(words)] + (" " if i % 11 else "\n") for i in range(260_000)
    )


def time_steps(case: dict[str, Any], mode: str, path: str) -> None:
    """In a process of its own: prints the seconds of the first step and of the median step."""
    from nanochat.config.options import TrainConfig
    from nanochat.data.dataset import load_dataset
    from nanochat.engines import build_engine, resolve_hardware
    from nanochat.training.loop import step_settings

    config = resolve_hardware(TrainConfig(mode="tensor", data=path, compile=mode, **case))
    dataset = load_dataset(config)
    batcher, vocab = dataset.batcher(config), dataset.tokenizer
    engine = build_engine(config, vocab.vocab_size, config.block_size)
    times = []
    for step in range(1 + WARM_STEPS + STEPS):
        began = time.perf_counter()
        engine.step(batcher.step(step), step_settings(config, step)).read()
        times.append(time.perf_counter() - began)
    print(json.dumps({"first_s": times[0], "step_s": statistics.median(times[1 + WARM_STEPS :])}))


def run(case: str, mode: str, path: str, cache: str) -> dict[str, float]:
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--case", case, "--mode", mode, "--text", path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(case: str, path: str, rounds: int) -> dict[str, float | None]:
    found: dict[str, list[dict[str, float]]] = {"off": [], "on": [], "again": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            found["off"].append(run(case, "off", path, cache))
            found["on"].append(run(case, "on", path, cache))
            found["again"].append(run(case, "on", path, cache))

    def median(kind: str, name: str) -> float:
        return statistics.median(each[name] for each in found[kind])

    off, on = median("off", "step_s"), min(median("on", "step_s"), median("again", "step_s"))
    compile_s = median("on", "first_s") - median("off", "first_s")
    return {
        "off_step_ms": off * 1e3,
        "on_step_ms": on * 1e3,
        "compile_s": compile_s,
        "compile_again_s": median("again", "first_s") - median("off", "first_s"),
        "break_even_steps": compile_s / (off - on) if on < off else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--mode", choices=("off", "on"))
    parser.add_argument("--text")
    arguments = parser.parse_args()
    if arguments.case:
        time_steps(CASES[arguments.case], arguments.mode, arguments.text)
        return
    record: dict[str, Any] = {}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text())
        file.flush()
        for case in CASES:
            record[case] = row = measure(case, file.name, arguments.rounds)
            even = row["break_even_steps"]
            pays = "never" if even is None else f"from {even:,.0f} steps"
            print(
                f"{case:24} off {row['off_step_ms']:6.2f} ms, on {row['on_step_ms']:6.2f} ms,"
                f" compiling {row['compile_s']:5.1f} s ({row['compile_again_s']:.1f} s from the"
                f" cache): pays {pays}",
                flush=True,
            )
    print(write_result("tensor/compile", {"rounds": arguments.rounds, "cases": record}))


if __name__ == "__main__":
    main()
