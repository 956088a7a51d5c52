"""The scalar engine beside microgpt.py: the same losses, and the time of both, in one run.

    python bench/microgpt.py --reference PATH/TO/microgpt.py --data PATH/TO/names.txt

runs the reference unmodified for a few steps, takes its initial weights and its order of
documents, trains the scalar engine on them and compares the losses at full precision. `--spread N`
also runs the reference to its end for N seeds, with our `Value` in place of its own class (that
this changes no bit of a loss is checked first), and sets the mean loss of the last 50 steps beside
that of `nanochat train --mode scalar --preset microgpt`. The reference is the final gist of
microgpt.py or any script with its names: docs, uchars, state_dict, loss, step.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result

import nanochat
from nanochat.config import TrainConfig
from nanochat.data.batches import Batch
from nanochat.scalar.engine import ScalarEngine
from nanochat.training.engine import EngineState
from nanochat.training.loop import step_settings

RECENT = 50


class _Enough(Exception):
    """Ends the reference after the wanted number of steps."""


@dataclass
class Reference:
    """What a run of the reference showed."""

    documents: list[str] = field(default_factory=list)
    characters: list[str] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)  # initial
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # a step


def run_reference(
    source: str, names: Path, steps: int, *, seed: int = 42, ours: bool = False
) -> Reference:
    """Execute the script up to `steps` steps; `print` is where it is watched.

    `ours` takes its class Value out and puts nanochat.Value in.
    """
    tree = ast.parse(source)
    if ours:
        tree.body = [
            n for n in tree.body if not (isinstance(n, ast.ClassDef) and n.name == "Value")
        ]
    seen, started = Reference(), time.perf_counter()

    def watch(text: str, *_: Any, **__: Any) -> None:
        nonlocal started
        if text.startswith("num params"):
            seen.documents, seen.characters = list(space["docs"]), list(space["uchars"])
            seen.weights = {
                name: np.array([[p.data for p in row] for row in matrix])
                for name, matrix in space["state_dict"].items()
            }
            started = time.perf_counter()
        elif text.startswith("step"):
            seen.seconds.append(time.perf_counter() - started)
            seen.losses.append(space["loss"].data)
            if len(seen.losses) == steps:
                raise _Enough
            started = time.perf_counter()

    space: dict[str, Any] = {"__name__": "reference", "print": watch, "Value": nanochat.Value}
    here, set_seed = os.getcwd(), random.seed
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(names, Path(folder) / "input.txt")
        os.chdir(folder)
        # The script seeds the module itself; this is the one place where another seed can enter.
        random.seed = lambda *_: set_seed(seed)  # type: ignore[assignment]
        try:
            exec(compile(tree, "reference", "exec"), space)
        except _Enough:
            pass
        finally:
            random.seed = set_seed  # type: ignore[assignment]
            os.chdir(here)
    return seen


def run_ours(reference: Reference, steps: int) -> tuple[list[float], list[float]]:
    """Losses and seconds of the scalar engine from the reference's weights and documents."""
    config = TrainConfig(mode="scalar", preset="microgpt")
    vocab = len(reference.characters) + 1
    engine = ScalarEngine(config, vocab, np.ones(vocab, dtype=np.int64), dtype="float64")
    # Its BOS is the last id, ours the first.
    order = [vocab - 1, *range(vocab - 1)]
    by_token = {"wte", "lm_head"}
    weights = {n: w[order] if n in by_token else w for n, w in reference.weights.items()}
    engine.load_state_dict(EngineState(weights=weights, optimizer={}))
    ids = {character: i for i, character in enumerate(reference.characters, start=1)}
    losses, seconds = [], []
    for step in range(steps):
        text = reference.documents[step % len(reference.documents)]
        batch = _document_batch([ids[character] for character in text], config.block_size)
        started = time.perf_counter()
        losses.append(engine.step([batch], step_settings(config, step)).read().loss)
        seconds.append(time.perf_counter() - started)
    return losses, seconds


def _document_batch(tokens: list[int], block_size: int) -> Batch:
    inputs, targets = np.array([[0, *tokens]]), np.array([[*tokens, 0]])
    length = min(block_size, inputs.shape[1])
    return Batch(
        inputs=inputs[:, :length],
        targets=targets[:, :length],
        positions=np.arange(length)[None],
        segments=np.zeros((1, length), dtype=np.int64),
        lengths=np.array([length]),
        global_targets=length,
    )


def largest_relative_difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def compare_steps(source: str, names: Path, steps: int) -> dict[str, Any]:
    reference = run_reference(source, names, steps)
    losses, seconds = run_ours(reference, steps)
    dropped_in = run_reference(source, names, steps, ours=True)
    record = {
        "steps": steps,
        "largest_relative_difference_of_losses": largest_relative_difference(
            losses, reference.losses
        ),
        "reference_with_our_value_has_the_same_bits": dropped_in.losses == reference.losses,
        "reference_ms_per_step": 1e3 * statistics.median(reference.seconds),
        "reference_with_our_value_ms_per_step": 1e3 * statistics.median(dropped_in.seconds),
        "engine_ms_per_step": 1e3 * statistics.median(seconds),
    }
    record["ratio_engine"] = record["reference_ms_per_step"] / record["engine_ms_per_step"]
    for key, value in record.items():
        print(f"{key}: {value}")
    assert record["largest_relative_difference_of_losses"] <= 1e-12
    assert record["reference_with_our_value_has_the_same_bits"]
    return record


def compare_spread(source: str, names: Path, seeds: int) -> dict[str, Any]:
    """The mean of the last 50 losses: the reference's seeds, and one run of ours."""
    theirs = []
    for seed in range(42, 42 + seeds):
        losses = run_reference(source, names, 1000, seed=seed, ours=True).losses
        theirs.append(statistics.fmean(losses[-RECENT:]))
        print(f"reference, seed {seed}: {theirs[-1]:.4f}")
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            mode="scalar", preset="microgpt", data="names-makemore", num_samples=0,
            data_dir=str(names.parent), out=str(Path(folder) / "run"),
        )  # fmt: skip
        metrics = nanochat.train(config).metrics
    ours = metrics["mean_loss_last_50"]
    mean, deviation = statistics.fmean(theirs), statistics.stdev(theirs)
    print(f"reference: {mean:.4f} ± {deviation:.4f} (sd), {min(theirs):.4f} … {max(theirs):.4f}")
    print(f"ours: {ours:.4f}, {1e3 / metrics['steps_per_sec']:.2f} ms a step")
    assert min(theirs) <= ours <= max(theirs)
    return {"reference_mean_loss_last_50": theirs, "ours_mean_loss_last_50": ours,
            "ours_ms_per_step": 1e3 / metrics["steps_per_sec"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--reference", type=Path, required=True, help="microgpt.py, the final gist")
    parser.add_argument(
        "--data", type=Path, required=True, help="its input.txt: makemore's names.txt"
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--spread", type=int, default=0, help="seeds to run to the end")
    options = parser.parse_args()
    source = options.reference.read_text(encoding="utf-8")
    record = compare_steps(source, options.data.resolve(), options.steps)
    if options.spread:
        record["spread"] = compare_spread(source, options.data.resolve(), options.spread)
    print(write_result("microgpt", record))


if __name__ == "__main__":
    main()
