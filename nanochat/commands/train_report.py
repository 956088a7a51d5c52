"""What `nanochat train` tells a person: the model and the text before a run, the result after it.

train.py runs the stages; this file owns their messages.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nanochat.config.options import RUNS_DIR, TrainConfig
from nanochat.data.dataset import Dataset
from nanochat.output.loss_curve import write_loss_curve
from nanochat.output.terminal import Terminal
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.folder import RunFolder
from nanochat.sampling.generate import generate, phrase_bias, prompt_tokens, sampling_settings
from nanochat.training.engine import Engine
from nanochat.training.metrics import metrics_line

__all__ = ["Run", "announce", "finish"]

STYLE_WEIGHT = 1.0


class Run(Protocol):
    """The parts of a run that its messages need."""

    config: TrainConfig  # resolved
    dataset: Dataset
    engine: Engine
    folder: RunFolder | None  # None in processes above rank 0, which write nothing
    resumed_from: Checkpoint | None
    terminal: Terminal

    def show_notes(self) -> None: ...


def announce(
    run: Run,
    params: int,
    mode_reason: str,  # why mode auto took this engine; empty if the mode was given
) -> None:
    """Show the model, the text and the checkpoint that the run starts from."""
    config, dataset, terminal = run.config, run.dataset, run.terminal
    terminal.note(
        f"{config.model_kind} {config.preset}: {params:,} parameters, {config.mode} engine,"
        f" {config.device} {config.dtype}{f' ({mode_reason})' if mode_reason else ''}"
    )
    terminal.note(
        f"{config.data}: {dataset.train.count:,} documents, {len(dataset.train.tokens):,} tokens"
        f" to train on, {len(dataset.val.tokens):,} to validate on, vocabulary"
        f" {dataset.tokenizer.vocab_size}"
    )
    run.show_notes()
    if config.preset == "gpt2-124m" and config.device == "cpu":
        terminal.warn("preset gpt2-124m is made for a GPU; a step on a CPU takes many minutes")
    if run.resumed_from is not None:
        step = run.resumed_from.trainer.step
        terminal.note(f"resuming from {run.resumed_from.path} after step {step}")


def finish(run: Run, metrics: Mapping[str, Any]) -> tuple[Sequence[str], Path]:
    """Write the result and the loss curve, show samples and the result; return the samples and the
    run's folder."""
    config, dataset, terminal = run.config, run.dataset, run.terminal
    run.show_notes()
    path = Path(config.out or RUNS_DIR)
    if run.folder is not None:
        path = run.folder.path
        run.folder.write_json(run.folder.result, {**metrics, "split_sha256": dataset.split_sha256})
        title = f"{config.data}, {config.model_kind}, {config.mode}"
        write_loss_curve(run.folder.metrics, run.folder.plot, title)
    context = prompt_tokens(dataset.tokenizer, "", dataset.start, config.block_size)
    bias = phrase_bias(dataset.tokenizer, config.style, STYLE_WEIGHT)
    started = time.perf_counter()
    samples = generate(
        run.engine, dataset.tokenizer, context, sampling_settings(config), config.num_samples,
        bias=bias,
    )  # fmt: skip
    terminal.note(f"{config.num_samples} samples in {time.perf_counter() - started:.1f} s")
    for number, sample in enumerate(samples, start=1):
        terminal.result(f"sample {number}: {sample.strip()}")
    terminal.result(metrics_line(metrics))
    terminal.result(f"run: {path}")
    terminal.json_result({"metrics": metrics, "samples": samples, "run": path})
    return samples, path
