"""`nanochat train`: data, engine, folder, loop, samples and the last line, in that order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.commands.signals import stop_requested
from nanochat.commands.time_budget import fit_to_budget
from nanochat.config.engine_choice import choose_engine
from nanochat.config.options import RUNS_DIR, TrainConfig, options_of
from nanochat.data.dataset import Dataset, load_dataset
from nanochat.engines import build_engine, resolve_hardware, tape_warning
from nanochat.errors import CheckpointError, ConfigError
from nanochat.model.parameters import parameter_specs
from nanochat.model.state import TrainerState
from nanochat.output.loss_curve import draw_losses
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    newest_run,
    save_checkpoint,
)
from nanochat.runs.folder import RunFolder, refuse_used
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
from nanochat.training.metrics import JsonlWriter, metrics_line

__all__ = ["TrainResult", "train"]

STYLE_WEIGHT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a finished run says of itself."""

    metrics: Mapping[str, Any]  # training.metrics.METRIC_KEYS
    samples: Sequence[str]
    run: Path  # the run's folder


def train(
    config: TrainConfig | None = None,
    *,
    terminal: Terminal = SILENT,
    age: float = 0.0,  # seconds of a time budget that have gone already
) -> TrainResult:
    """Train one model and write its run folder; the default is the default of the command line.

    Raises a NanochatError for whatever a user can get wrong; `RunInterrupted` after SIGINT or
    SIGTERM, once the checkpoint is saved.

    >>> import nanochat
    >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=3, num_samples=2))
    >>> run.metrics["steps"], len(run.samples)
    (3, 2)
    """
    started = time.perf_counter() - age
    config = config or TrainConfig()
    chosen = "mode" in config.given or config.resume  # by the user, not by the rule of mode auto
    terminal = terminal if processes.rank() == 0 else SILENT
    folder, checkpoint = None, None
    if config.resume:
        folder, checkpoint, skipped = _find_resumed(config)
        for reason in skipped:
            terminal.warn(reason)
        config = _resumed_config(config, checkpoint)
    elif config.out is not None and processes.rank() == 0:
        refuse_used(Path(config.out))  # before any work, not only when the folder is made
    if config.time_budget is not None:
        fit = fit_to_budget(config, started)
        terminal.note(f"{config.time_budget}: {fit}")
        config, chosen = fit.config, True
    config, dataset, reason = _resolve(config, chosen)
    if checkpoint is not None:
        _check_same_data(dataset, checkpoint)
    elif dataset.warning:
        terminal.warn(dataset.warning)
    tokenizer, longest = dataset.tokenizer, dataset.longest_segment(config.block_size)
    engine = build_engine(config, tokenizer.vocab_size, tokenizer.token_bytes, longest)
    if checkpoint is not None:
        engine.load_state_dict(checkpoint.state)
    with _folder_of_process(folder, config) as folder:
        _announce(engine, config, dataset, checkpoint, reason, terminal)
        result = _run_loop(engine, config, dataset, folder, checkpoint, terminal)
        return _finish(engine, config, dataset, folder, result, terminal)


def _resolve(config: TrainConfig, chosen: bool) -> tuple[TrainConfig, Dataset, str]:
    """The config as this machine and text make it, the text, and why mode auto took its engine.

    A text of very many characters makes a small model large; only now is that known.
    """
    resolved = resolve_hardware(config)
    dataset = load_dataset(resolved)
    resolved = dataclasses.replace(resolved, batching=dataset.batching)
    if chosen:
        return resolved, dataset, ""
    mode, reason = choose_engine(config.to_dict(), dataset.tokenizer.vocab_size)
    if mode == config.mode:
        return resolved, dataset, reason
    given = {name: getattr(config, name) for name in config.given}
    resolved, dataset, _ = _resolve(TrainConfig(**given, mode=mode), chosen=True)
    return resolved, dataset, reason


@contextmanager
def _folder_of_process(resumed: RunFolder | None, config: TrainConfig) -> Iterator[RunFolder]:
    """The run's folder. Under torchrun the first process alone writes it; the others, which
    hold the same weights, do all the same in a folder that goes away."""
    if processes.rank() > 0:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as temporary:
            yield RunFolder.create(str(Path(temporary) / "run"), "")
        return
    folder = resumed
    if folder is None:
        folder = RunFolder.create(config.out, f"{config.model_kind}-{config.mode}")
        folder.write_config(config.to_dict())
        folder.write_json(folder.environment, describe_environment(config.threads))
    yield folder


# ------------------------------------------------------------------------------------- resuming


def _find_resumed(config: TrainConfig) -> tuple[RunFolder, Checkpoint, list[str]]:
    folder = RunFolder(Path(config.out) if config.out else newest_run(Path(RUNS_DIR)))
    if not folder.path.is_dir():
        raise CheckpointError(f"no run to resume at {folder.path}; leave --resume out to start one")
    checkpoint, skipped = newest_checkpoint(folder.checkpoints)
    return folder, checkpoint, skipped


def _resumed_config(config: TrainConfig, checkpoint: Checkpoint) -> TrainConfig:
    """The saved config, with the output options that were given now. Raises ConfigError."""
    saved = dict(checkpoint.config)
    known = options_of(TrainConfig)
    for name in sorted(config.given):
        value = getattr(config, name)
        if known[name].output or (
            name == "steps" and saved["lr_schedule"] == "constant" and value > saved["steps"]
        ):
            saved[name] = value
        elif value != saved.get(name):
            way_out = (
                "only a constant lr_schedule can go on for more steps" if name == "steps"
                else "leave it out, or start a new run"
            )  # fmt: skip
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
            f"the corpus must be the one of the checkpoint (split SHA-256 {then[:12]}…), got"
            f" {now[:12]}…; put the text back or start a new run"
        )


# --------------------------------------------------------------------------------------- running


def _announce(
    engine: Engine,
    config: TrainConfig,
    dataset: Dataset,
    checkpoint: Checkpoint | None,
    reason: str,  # why mode auto took this engine; empty if it was asked for
    terminal: Terminal,
) -> None:
    params = _parameter_count(config, dataset.tokenizer.vocab_size)
    terminal.note(
        f"{config.model_kind} {config.preset}: {params:,} parameters, {config.mode} engine,"
        f" {config.device} {config.dtype}{f' ({reason})' if reason else ''}"
    )
    terminal.note(
        f"{config.data}: {dataset.train.count:,} documents, {len(dataset.train.tokens):,} tokens"
        f" to train on, {len(dataset.val.tokens):,} to validate on, vocabulary"
        f" {dataset.tokenizer.vocab_size}"
    )
    if warning := tape_warning(engine, config):
        terminal.warn(warning)
    if config.preset == "gpt2-124m" and config.device == "cpu":
        terminal.warn("preset gpt2-124m is made for a GPU; a step on a CPU takes many minutes")
    if checkpoint is not None:
        terminal.note(f"going on from {checkpoint.path} after step {checkpoint.trainer.step}")


def _parameter_count(config: TrainConfig, vocab_size: int) -> int:
    return sum(spec.shape[0] * spec.shape[1] for spec in parameter_specs(config, vocab_size))


def _run_loop(
    engine: Engine,
    config: TrainConfig,
    dataset: Dataset,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    terminal: Terminal,
) -> LoopResult:
    batcher = dataset.batcher(config, processes.rank(), processes.world())
    evaluation_set = dataset.evaluation_set(config)

    def save(trainer: TrainerState) -> str:
        path = save_checkpoint(
            folder.checkpoints, config=config.to_dict(), tokenizer=dataset.tokenizer.to_dict(),
            data=dataset.describe(), trainer=trainer, state=engine.state_dict(),
        )  # fmt: skip
        return str(path)

    log = JsonlWriter(folder.metrics)
    try:
        if checkpoint is not None and processes.rank() == 0:
            log.truncate(checkpoint.trainer.metrics_length)
        done = checkpoint.trainer.step if checkpoint else 0
        with stop_requested() as stop, terminal.progress(config.steps, done) as observer:
            return train_loop(
                engine, config, batcher, evaluation_set, log=log, save=save, observer=observer,
                start=checkpoint.trainer if checkpoint else None,
                last_checkpoint=str(checkpoint.path) if checkpoint else None, stop=stop,
            )  # fmt: skip
    finally:
        log.close()


# ------------------------------------------------------------------------------------- finishing


def _finish(
    engine: Engine,
    config: TrainConfig,
    dataset: Dataset,
    folder: RunFolder,
    result: LoopResult,
    terminal: Terminal,
) -> TrainResult:
    metrics = _metrics(engine, config, dataset, result)
    if (parts := getattr(engine, "parts", 1)) > 1:
        terminal.warn(
            f"batch_size {config.batch_size} did not fit in memory: trained as {parts} parts,"
            f" --batch-size {-(-config.batch_size // parts)} --grad-accum"
            f" {config.grad_accum * parts}"
        )
    folder.write_json(folder.result, {**metrics, "split_sha256": dataset.split_sha256})
    draw_losses(folder.metrics, folder.plot, f"{config.data}, {config.model_kind}, {config.mode}")
    context = prompt_tokens(dataset.tokenizer, "", dataset.start, config.block_size)
    bias = phrase_bias(dataset.tokenizer, config.style, STYLE_WEIGHT)
    started = time.perf_counter()
    samples = generate(
        engine,
        dataset.tokenizer,
        context,
        sampling_settings(config),
        config.num_samples,
        bias=bias,
    )
    terminal.note(f"{config.num_samples} samples in {time.perf_counter() - started:.1f} s")
    for number, sample in enumerate(samples, start=1):
        terminal.result(f"sample {number}: {sample.strip()}")
    terminal.result(metrics_line(metrics))
    terminal.result(f"run: {folder.path}")
    terminal.json_result({"metrics": metrics, "samples": samples, "run": folder.path})
    return TrainResult(metrics=metrics, samples=samples, run=folder.path)


def _metrics(
    engine: Engine, config: TrainConfig, dataset: Dataset, result: LoopResult
) -> dict[str, Any]:
    rate = 1 / result.elapsed_s if result.elapsed_s > 0 else 0.0
    return {
        "mode": config.mode,
        "model_kind": config.model_kind,
        "style": config.style,
        "backend": engine.backend,
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
