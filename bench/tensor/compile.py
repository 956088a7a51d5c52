"""Steps without and with torch.compile: the measurement behind the default of --compile.

    python -m bench.tensor.compile [--rounds 3] [--cases NAME…] [--steps 60]

Each case runs in separate processes, off and on in turn. Measures the first step (which includes
compiling: once with an empty compiler cache, once with the cache that this leaves) and the median
of the later steps. Break-even is the number of steps from which compiling saves time. Writes
results/tensor/compile.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from typing import Any

from bench.command import command_parser, module_command, module_environment
from bench.machine import write_result

STEPS = 60  # timed after WARM_STEPS
WARM_STEPS = 8
CASES: dict[str, dict[str, Any]] = {
    "nano": {"preset": "nano"},
    "nano, dropout 0.1": {"preset": "nano", "dropout": 0.1},
    "nano, plain torch loss": {"preset": "nano", "loss": "torch"},
    "nano, context 1024": {"preset": "nano", "block_size": 1024, "batch_size": 2},
    "small": {"preset": "small", "tokenizer": "byte"},  # bpe would take time to train, not to run
}


def text() -> str:
    """Return a megabyte of lines of a few hundred words. The words do not affect step times."""
    words = [f"{a}{b}{c}" for a in "bdfgklmnpr" for b in "aeiou" for c in "lmnrst"]
    return "".join(
        words[(i * 7919 + i * i) % len(words)] + (" " if i % 11 else "\n") for i in range(260_000)
    )


def time_steps(case: dict[str, Any], mode: str, path: str, steps: int) -> None:
    """Print the seconds of the first step and of the median step, as one line of JSON."""
    from nanochat.config.options import TrainConfig
    from nanochat.data.dataset import load_dataset
    from nanochat.engines import build_engine, resolve_hardware
    from nanochat.training.loop import step_settings

    config = resolve_hardware(TrainConfig(mode="tensor", data=path, compile=mode, **case))
    dataset = load_dataset(config)
    batcher, vocab = dataset.batcher(config), dataset.tokenizer
    engine = build_engine(config, vocab.vocab_size, config.block_size)
    times = []
    for step in range(1 + WARM_STEPS + steps):
        began = time.perf_counter()
        engine.step(batcher.step(step), step_settings(config, step)).read()
        times.append(time.perf_counter() - began)
    print(json.dumps({"first_s": times[0], "step_s": statistics.median(times[1 + WARM_STEPS :])}))


def run(case: str, mode: str, path: str, steps: int, cache: str) -> dict[str, float]:
    """Run time_steps() in a separate process."""
    words = ("--case", case, "--mode", mode, "--text", path, "--steps", steps)
    command = module_command("bench.tensor.compile", *words)
    environment = module_environment(TORCHINDUCTOR_CACHE_DIR=cache)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case}, compile {mode}, failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(case: str, path: str, steps: int, rounds: int) -> dict[str, float | None]:
    found: dict[str, list[dict[str, float]]] = {"off": [], "on": [], "again": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            found["off"].append(run(case, "off", path, steps, cache))
            found["on"].append(run(case, "on", path, steps, cache))
            found["again"].append(run(case, "on", path, steps, cache))

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
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="NAME")
    parser.add_argument("--steps", type=int, default=STEPS, help="timed in each process")
    for_process = parser.add_argument_group("options of the measured processes")
    for_process.add_argument("--case", choices=CASES, metavar="NAME")
    for_process.add_argument("--mode", choices=("off", "on"))
    for_process.add_argument("--text")
    options = parser.parse_args()
    if options.case:
        time_steps(CASES[options.case], options.mode, options.text, options.steps)
        return
    record: dict[str, Any] = {}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text())
        file.flush()
        for case in options.cases:
            record[case] = row = measure(case, file.name, options.steps, options.rounds)
            even = row["break_even_steps"]
            pays = "never" if even is None else f"from {even:,.0f} steps"
            print(
                f"{case:24} off {row['off_step_ms']:6.2f} ms, on {row['on_step_ms']:6.2f} ms,"
                f" compiling {row['compile_s']:5.1f} s ({row['compile_again_s']:.1f} s from the"
                f" cache): pays {pays}",
                flush=True,
            )
    print(write_result("tensor/compile", {"rounds": options.rounds, "cases": record}))


if __name__ == "__main__":
    main()
