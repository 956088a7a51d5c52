"""Microseconds per step of `nanochat train --preset microgpt`, compared with its program alone.

    python -m bench.scalar.trainer [--steps 20000] [--rounds 9]

The trainer is the installed command in a new process: 1 / steps_per_sec of its metrics line, which
includes batches, learning rates, gradient norms, checks and the log. The program is the recorded
model with its AdamW on the batches of the same steps, in a new process: arrays are prepared before
the clock starts, and each step is one call of forward() with gradients and one of adamw(). Both
sides run in turn. Checks that the last losses are equal, prints the best and the median of the
rounds, and writes results/scalar/trainer.json.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from typing import Any

import numpy as np

from bench.command import (
    command_parser,
    environment_without_root,
    module_command,
    module_environment,
    nanochat_command,
)
from bench.machine import write_result
from nanochat.config.options import TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.engines import resolve_hardware
from nanochat.scalar.engine import ScalarEngine
from nanochat.scalar.replay import segments_of
from nanochat.training.loop import step_settings

TARGET = 1.4  # times the program's step


def run_program(steps: int) -> tuple[float, float]:
    """Return the microseconds per step and the loss of the last step."""
    config = resolve_hardware(TrainConfig(mode="scalar", preset="microgpt", steps=steps))
    dataset = load_dataset(config)
    engine = ScalarEngine(
        config, dataset.tokenizer.vocab_size, dtype=config.dtype,
        longest=dataset.longest_segment(config.block_size),
    )  # fmt: skip
    assert engine._replay is not None
    core, positions = engine._replay.core, engine._replay.positions
    batcher = dataset.batcher(config)
    batches = []
    for step in range(steps):
        (batch,) = batcher.step(step)
        segments, lr = segments_of(batch, positions), step_settings(config, step).lr
        assert len(set(lr.values())) == 1  # one rate for all parameters
        scale = np.array([1 / batch.global_targets])
        batches.append((segments.lengths, segments.tokens, scale, lr["matrix"]))
    size, options = core.values.size, (config.beta1, config.beta2, config.eps, config.weight_decay)
    started = time.perf_counter()
    for step, (lengths, tokens, scale, lr_of_step) in enumerate(batches, start=1):
        totals = core.forward(lengths, tokens, scale, accumulate=False)
        core.adamw(0, size, lr_of_step, *options, step)
    seconds = time.perf_counter() - started
    return 1e6 * seconds / steps, float(scale[0] * totals[0])


def run_side(side: str, steps: int, folder: str) -> tuple[float, float]:
    if side == "program":
        command = module_command("bench.scalar.trainer", "--steps", steps, "--program")
        environment = module_environment()
    else:
        words = ("train", "--mode", "scalar", "--preset", "microgpt", "--num-samples", "0")
        command = [nanochat_command(), *words, "--steps", str(steps)]
        environment = environment_without_root()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    loss = re.search(r"\bfinal_loss=(\S+)", done.stdout)
    rate = re.search(r"\bsteps_per_sec=(\S+)", done.stdout)
    assert loss is not None and rate is not None
    return 1e6 / float(rate[1]), float(loss[1])


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--program", action="store_true", help="run the program alone, once")
    options = parser.parse_args()
    if options.program:
        step_us, loss = run_program(options.steps)
        print(f"steps_per_sec={1e6 / step_us} final_loss={loss:.6g}")
        return
    times: dict[str, list[float]] = {"trainer": [], "program": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            losses = set()
            for side, found in times.items():
                step_us, loss = run_side(side, options.steps, folder)
                found.append(step_us)
                losses.add(loss)
            assert len(losses) == 1, f"both sides must end with one loss, got {losses}"
    record: dict[str, Any] = {"steps": options.steps, "rounds": options.rounds, "target": TARGET}
    for side, found in times.items():
        record[side] = {"step_us_best": min(found), "step_us_median": statistics.median(found)}
        print(f"{side:8} {min(found):8.2f} us per step ({statistics.median(found):.2f})")
    record["ratio_of_best"] = min(times["trainer"]) / min(times["program"])
    record["ratio_of_medians"] = (
        record["trainer"]["step_us_median"] / record["program"]["step_us_median"]
    )
    print(f"ratio {record['ratio_of_best']:.2f} ({record['ratio_of_medians']:.2f})")
    print(write_result("scalar/trainer", record))


if __name__ == "__main__":
    main()
