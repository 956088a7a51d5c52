"""`nanochat train`: data, engine, folder, loop, samples and the metrics line, in that order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.commands.baseline import Counting, baseline_metrics, comparison, start_baseline
from nanochat.commands.signals import stop_requested
from nanochat.commands.time_budget import fit_to_budget
from nanochat.config.engine_choice import choose_engine
from nanochat.config.options import RUNS_DIR, TrainConfig, options_of
from nanochat.data.dataset import Dataset, load_dataset
from nanochat.engines import build_engine, resolve_hardware
from nanochat.errors import CheckpointError, ConfigError, NanochatError
from nanochat.model.parameters import parameter_specs
from nanochat.model.state import TrainerState
from nanochat.ngram.baseline import Baseline
from nanochat.output.loss_curve import write_loss_curve
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    newest_run,
    save_checkpoint,
)
from nanochat.runs.folder import RunFolder, new_run, refuse_used
from nanochat.runs.lock import locked
from nanochat.sampling.generate import (
    generate,
    phrase_bias,
    prompt_tokens,
    sampling_settings,
)
from nanochat.system import processes
from nanochat.system.environment import describe_environment
from nanochat.training.engine import Engine
from nanochat.training.loop import LoopResult
from nanochat.training.loop import train as train_loop
from nanochat.training.metrics import JsonlWriter, NullWriter, metrics_line

__all__ = ["TrainResult", "train"]

STYLE_WEIGHT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The outcome of a finished run."""

    metrics: Mapping[str, Any]  # training.metrics.METRIC_KEYS
    samples: Sequence[str]
    run: Path  # the run's folder; of several processes only rank 0 knows its full name


@dataclass(kw_only=True)
class _Run:
    """A run that is ready to train."""

    config: TrainConfig  # resolved
    dataset: Dataset
    engine: Engine
    folder: RunFolder | None  # None in processes above rank 0, which write nothing
    resumed_from: Checkpoint | None
    terminal: Terminal
    baseline: Counting | None = None  # from the start of training
    notes_shown: set[str] = dataclasses.field(default_factory=set)

    def show_notes(self) -> None:
        """Show the engine's notes that have not been shown yet."""
        for note in self.engine.notes():
            if note not in self.notes_shown:
                self.notes_shown.add(note)
                self.terminal.warn(note)


def train(
    config: TrainConfig | None = None,
    *,
    terminal: Terminal = SILENT,
    elapsed_s: float = 0.0,  # of a time budget, spent before this call
) -> TrainResult:
    """Train one model and write its run folder.

    The defaults are those of the command line. Raises a NanochatError for every mistake of the
    user, and `RunInterrupted` after SIGINT or SIGTERM, once the checkpoint is saved.

    >>> import nanochat
    >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=3, num_samples=2))
    >>> run.metrics["steps"], len(run.samples)
    (3, 2)
    """
    started = time.perf_counter() - elapsed_s
    requested = config or TrainConfig()
    terminal = terminal if processes.rank() == 0 else SILENT
    with ExitStack() as stack:
        folder, checkpoint = None, None
        if requested.resume:
            folder, checkpoint = stack.enter_context(_resumed_run(requested, terminal))
        elif requested.out is not None and processes.rank() == 0:
            refuse_used(Path(requested.out))  # before any work; again when the folder is created
        complete, mode_is_given = _complete(requested, checkpoint, started, terminal)
        resolved, dataset, mode_reason = _resolve(complete, mode_is_given)
        if checkpoint is not None:
            _check_same_data(dataset, checkpoint)
        elif dataset.warning:
            terminal.warn(dataset.warning)
        engine = _build_engine(resolved, dataset, checkpoint)
        if folder is None and processes.rank() == 0:
            folder = stack.enter_context(_new_run(resolved))
        run = _Run(
            config=resolved, dataset=dataset, engine=engine, folder=folder,
            resumed_from=checkpoint, terminal=terminal,
        )  # fmt: skip
        _announce(run, mode_reason)
        return _finish(run, _train(run))


def _complete(
    requested: TrainConfig, checkpoint: Checkpoint | None, started: float, terminal: Terminal
) -> tuple[TrainConfig, bool]:
    """Return the config with the checkpoint's options or those of the time budget, and whether
    its mode is given rather than chosen by the rule of mode auto."""
    complete = requested if checkpoint is None else _resumed_config(requested, checkpoint)
    if complete.time_budget is None:
        return complete, checkpoint is not None or "mode" in requested.given
    fit = fit_to_budget(complete, started)
    terminal.note(f"{complete.time_budget}: {fit}")
    return fit.config, True  # its steps were timed in this mode


def _resolve(complete: TrainConfig, mode_is_given: bool) -> tuple[TrainConfig, Dataset, str]:
    """Return the config for this machine and text, the text, and why mode auto took its engine.

    A text of very many characters makes a small model large, which is known only now.
    """
    resolved = resolve_hardware(complete)
    dataset = load_dataset(resolved)
    resolved = dataclasses.replace(resolved, batching=dataset.batching)
    if mode_is_given:
        return resolved, dataset, ""
    mode, reason = choose_engine(complete.to_dict(), dataset.tokenizer.vocab_size)
    if mode == complete.mode:
        return resolved, dataset, reason
    given = {name: getattr(complete, name) for name in complete.given}
    resolved, dataset, _ = _resolve(TrainConfig(**given, mode=mode), mode_is_given=True)
    return resolved, dataset, reason


def _build_engine(resolved: TrainConfig, dataset: Dataset, checkpoint: Checkpoint | None) -> Engine:
    longest = dataset.longest_segment(resolved.block_size)
    engine = build_engine(resolved, dataset.tokenizer.vocab_size, longest)
    if checkpoint is not None:
        engine.load_state_dict(checkpoint.state)
    return engine


@contextmanager
def _new_run(resolved: TrainConfig) -> Iterator[RunFolder]:
    """Create and lock the run's folder, with its config and environment."""
    with new_run(resolved.out, f"{resolved.model_kind}-{resolved.mode}") as folder:
        folder.write_config(resolved.to_dict())
        folder.write_json(folder.environment, describe_environment(resolved.threads))
        yield folder


# ------------------------------------------------------------------------------------- resuming


@contextmanager
def _resumed_run(
    requested: TrainConfig, terminal: Terminal
) -> Iterator[tuple[RunFolder | None, Checkpoint]]:
    """Lock the folder of the run to resume and read its newest checkpoint. Processes above
    rank 0 only read it."""
    folder = RunFolder(Path(requested.out) if requested.out else newest_run(Path(RUNS_DIR)))
    if not folder.path.is_dir():
        raise CheckpointError(f"no run to resume at {folder.path}; leave --resume out to start one")
    with ExitStack() as stack:
        if processes.rank() == 0:
            stack.enter_context(locked(folder.path))
        checkpoint, skipped = newest_checkpoint(folder.checkpoints)
        for reason in skipped:
            terminal.warn(reason)
        yield folder if processes.rank() == 0 else None, checkpoint


def _resumed_config(requested: TrainConfig, checkpoint: Checkpoint) -> TrainConfig:
    """Return the saved config with the output options given now. Raises ConfigError."""
    saved = dict(checkpoint.config)
    known = options_of(TrainConfig)
    for name in sorted(requested.given):
        value = getattr(requested, name)
        if known[name].output or (
            name == "steps" and saved["lr_schedule"] == "constant" and value > saved["steps"]
        ):
            saved[name] = value
        elif value != saved.get(name):
            way_out = (
                "only a run with lr_schedule constant can continue for more steps"
                if name == "steps"
                else "leave it out, or start a new run"
            )
            raise ConfigError(
                f"--resume keeps the saved {name} {saved.get(name)}, got {value}; {way_out}"
            )
    try:
        return TrainConfig(**{**saved, "resume": False})
    except TypeError as error:
        raise CheckpointError(
            f"{checkpoint.path} has a config of another version: {error}"
        ) from error


def _check_same_data(dataset: Dataset, checkpoint: Checkpoint) -> None:
    now, then = dataset.split_sha256, checkpoint.data["split_sha256"]
    if now != then or dataset.tokenizer.to_dict() != checkpoint.tokenizer:
        raise CheckpointError(
            f"the text must be that of the checkpoint (split SHA-256 {then[:12]}…), got"
            f" {now[:12]}…; restore the text or start a new run"
        )


# --------------------------------------------------------------------------------------- running


def _announce(
    run: _Run,
    mode_reason: str,  # why mode auto took this engine; empty if the mode was given
) -> None:
    config, dataset, terminal = run.config, run.dataset, run.terminal
    params = _parameter_count(config, dataset.tokenizer.vocab_size)
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


def _parameter_count(config: TrainConfig, vocab_size: int) -> int:
    return sum(spec.shape[0] * spec.shape[1] for spec in parameter_specs(config, vocab_size))


def _train(run: _Run) -> LoopResult:
    config, dataset, checkpoint = run.config, run.dataset, run.resumed_from
    batcher = dataset.batcher(config, processes.rank(), processes.world())
    evaluation_set = dataset.evaluation_set(config)
    run.baseline = start_baseline(config, dataset, evaluation_set)
    start = checkpoint.trainer if checkpoint else None
    log = NullWriter() if run.folder is None else JsonlWriter(run.folder.metrics)
    try:
        if start is not None:
            log.truncate(start.metrics_length)
        progress = run.terminal.progress(config.steps, start.step if start else 0)
        with stop_requested() as stop, progress as observer:
            return train_loop(
                run.engine, config, batcher, evaluation_set, dataset.tokenizer.token_bytes,
                log=log, save=lambda trainer: _save(run, trainer), observer=observer, start=start,
                last_checkpoint=str(checkpoint.path) if checkpoint else None, stop=stop,
                world=processes.world(),
            )  # fmt: skip
    finally:
        log.close()


def _save(run: _Run, trainer: TrainerState) -> str:
    """Save a checkpoint and return its name."""
    if run.folder is None:
        return f"step-{trainer.step:06d} (by rank 0)"
    path = save_checkpoint(
        run.folder.checkpoints, config=run.config.to_dict(),
        tokenizer=run.dataset.tokenizer.to_dict(), data=run.dataset.describe(), trainer=trainer,
        state=run.engine.state_dict(),
    )  # fmt: skip
    return str(path)


# ------------------------------------------------------------------------------------- finishing


def _finish(run: _Run, result: LoopResult) -> TrainResult:
    """Write the result and the loss curve, then show samples and the metrics line."""
    config, dataset, terminal = run.config, run.dataset, run.terminal
    metrics = _metrics(run, result)
    baseline = _counted(run)
    run.show_notes()
    path = Path(config.out or RUNS_DIR)
    if run.folder is not None:
        path = run.folder.path
        run.folder.write_json(
            run.folder.result,
            {**metrics, **baseline_metrics(baseline), "split_sha256": dataset.split_sha256},
        )
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
    if baseline is not None:
        terminal.note(comparison(baseline, result.evaluation.loss, result.evaluation.bpb))
    terminal.result(metrics_line(metrics))
    terminal.result(f"run: {path}")
    terminal.json_result({"metrics": metrics, "samples": samples, "run": path})
    return TrainResult(metrics=metrics, samples=samples, run=path)


def _counted(run: _Run) -> Baseline | None:
    """Wait for the counting baseline; warn if it could not be counted."""
    baseline = run.baseline.result() if run.baseline is not None else None
    if isinstance(baseline, NanochatError):
        run.terminal.warn(f"no counting baseline: {baseline}")
        return None
    return baseline


def _metrics(run: _Run, result: LoopResult) -> dict[str, Any]:
    config, dataset = run.config, run.dataset
    rate = 1 / result.elapsed_s if result.elapsed_s > 0 else 0.0
    return {
        "mode": config.mode,
        "model_kind": config.model_kind,
        "style": config.style,
        "backend": run.engine.backend,
        "device": config.device,
        "using_gpu": config.device != "cpu",
        "tie_lm_head": config.tie_lm_head,
        "input_rmsnorm": config.input_rmsnorm,
        "params": _parameter_count(config, dataset.tokenizer.vocab_size),
        "steps": result.steps,
        "final_loss": result.final_loss,
        "val_loss": result.evaluation.loss,
        "val_bpb": result.evaluation.bpb,
        "val_source": dataset.val_source,
        "mean_loss_last_50": result.mean_loss_last_50,
        "steps_per_sec": result.steps * rate,
        "tokens_per_sec": result.tokens * rate,
        "vocab_size": dataset.tokenizer.vocab_size,
        "train_tokens": result.tokens,
        "seed": config.seed,
    }
