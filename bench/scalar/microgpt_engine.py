"""The scalar engine compared with microgpt.py.

Owns two comparisons: the losses from the same weights and documents, and the final loss of a whole
run with the spread of the reference over seeds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import nanochat
from bench.scalar.microgpt_reference import Reference, run_reference
from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.scalar.engine import ScalarEngine
from nanochat.training.engine import EngineState
from nanochat.training.loop import step_settings

RECENT = 50


def run_engine(reference: Reference, steps: int) -> tuple[list[float], list[float]]:
    """Train the scalar engine on the reference's weights and documents; return losses, seconds."""
    config = TrainConfig(mode="scalar", preset="microgpt")
    vocab = len(reference.characters) + 1
    engine = ScalarEngine(config, vocab, dtype="float64")
    # BOS is the last id of the reference and the first id of the engine.
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
    """Compare the first losses and the milliseconds per step of engine and reference."""
    reference = run_reference(source, names, steps)
    losses, seconds = run_engine(reference, steps)
    dropped_in = run_reference(source, names, steps, ours=True)
    record = {
        "steps": steps,
        "largest_relative_difference_of_losses": largest_relative_difference(
            losses, reference.losses
        ),
        "reference_with_our_value_has_the_same_bits": dropped_in.losses == reference.losses,
        "reference_ms_per_step": reference.clock.milliseconds()["step"],
        "reference_with_our_value_ms_per_step": dropped_in.clock.milliseconds()["step"],
        "engine_ms_per_step": 1e3 * statistics.fmean(seconds),
    }
    record["ratio_engine"] = record["reference_ms_per_step"] / record["engine_ms_per_step"]
    for key, value in record.items():
        print(f"{key}: {value}")
    assert record["largest_relative_difference_of_losses"] <= 1e-12
    assert record["reference_with_our_value_has_the_same_bits"]
    return record


def compare_spread(source: str, names: Path, seeds: int) -> dict[str, Any]:
    """Compare the mean of the last 50 losses: several seeds of the reference, one run of ours."""
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
    print(f"ours: {ours:.4f}, {1e3 / metrics['steps_per_sec']:.2f} ms per step")
    assert min(theirs) <= ours <= max(theirs)
    return {"reference_mean_loss_last_50": theirs, "ours_mean_loss_last_50": ours,
            "ours_ms_per_step": 1e3 / metrics["steps_per_sec"]}  # fmt: skip
