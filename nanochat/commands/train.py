"""`nanochat train`: data, engine, folder, loop, samples and the metrics line, in that order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.commands.baseline import Counting, start_baseline
from nanochat.commands.mixing import fits_share, keep_counts, share_counts
from nanochat.commands.nonfinite import forget_nonfinite, write_nonfinite
from nanochat.commands.own_model import own_model
from nanochat.commands.recording import recorder_of
from nanochat.commands.resolve import (
    RunText,
    complete_config,
    for_conversations,
    regularized,
    resolve,
)
from nanochat.commands.resuming import run_to_resume
from nanochat.commands.signals import stop_requested
from nanochat.commands.train_report import announce, finish, preview, with_way_on
from nanochat.commands.train_result import (
    OnEvaluation,
    TrainResult,
    Watch,
    check_on_evaluation,
)
from nanochat.config.keep import parse_keep
from nanochat.config.option import config_or_default
from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.data.dataset import Dataset
from nanochat.data.sources.progress import telling
from nanochat.data.tokenizer import Tokenizer
from nanochat.engines import build_engine
from nanochat.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteStep,
    ProcessGroupError,
    RunInterrupted,
)
from nanochat.model.model_file import ModelFile, changes_of
from nanochat.model.parameters import parameter_specs
from nanochat.model.state import TrainerState
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.checkpoint import (
    Checkpoint,
    clear_leftovers,
    find_checkpoint,
    mark_best,
    newest_checkpoint,
    read_best,
    save_checkpoint,
)
from nanochat.runs.counts import named_counts
from nanochat.runs.folder import RunFolder, new_run, refuse_links, refuse_used
from nanochat.runs.history import write_history
from nanochat.runs.lock import locked
from nanochat.runs.own_text import check_own_text, is_own, seal
from nanochat.runs.reading import check_can_be_saved
from nanochat.runs.retention import prune_checkpoints
from nanochat.system import processes
from nanochat.system.environment import describe_environment
from nanochat.system.wording import counted
from nanochat.training.average import scored_state
from nanochat.training.cadence import Cadence
from nanochat.training.engine import Engine, EngineState
from nanochat.training.guards import check_finite_loss
from nanochat.training.history import Recorder
from nanochat.training.loop import EvalMetrics, LoopResult, evaluate
from nanochat.training.loop import train as train_loop
from nanochat.training.metrics import JsonlWriter, NullWriter
from nanochat.training.saving import Best

if TYPE_CHECKING:  # most runs are over before these are imported
    from nanochat.commands.final_on_all import Chosen
    from nanochat.commands.init_from import Source
    from nanochat.commands.time_budget import Fit
    from nanochat.training.deadline import Deadline

__all__ = ["TrainResult", "train"]


@dataclass(kw_only=True)
class _Run:
    """A run that is ready to train."""

    config: TrainConfig  # resolved
    dataset: Dataset
    engine: Engine
    own: ModelFile | None  # with the model of the config
    folder: RunFolder | None  # None in processes above rank 0, which write nothing
    resumed_from: Checkpoint | None
    initialized_from: Mapping[str, Any] | None  # the record of the run whose weights it began with
    terminal: Terminal
    best_state: EngineState | None = None  # without the optimizer; in processes above rank 0
    counts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # as checkpoints name them
    deadline: Deadline | None = None  # of a run with a time budget
    baseline: Counting | None = None  # from the start of training
    recorder: Recorder | None = None  # of option record
    watch: Watch = dataclasses.field(init=False)  # calls on_evaluation
    notes_shown: set[str] = dataclasses.field(default_factory=set)

    def show_notes(self) -> None:
        """Show the engine's notes that have not been shown yet."""
        for note in self.engine.notes():
            if note not in self.notes_shown:
                self.notes_shown.add(note)
                self.terminal.warn(note)


def train(
    config: TrainConfig | Mapping[str, Any] | None = None,
    *,
    on_evaluation: OnEvaluation | None = None,
    progress: bool = False,
    terminal: Terminal = SILENT,
    elapsed_s: float = 0.0,  # of a time budget, spent before this call
) -> TrainResult:
    """Train one model and write its run folder.

    Args:
        config: A TrainConfig or a dict of its options; the defaults are those of the command line.
        on_evaluation: Called with an `Evaluation` after each evaluation. If it returns False, the
            run ends there, as by option patience: the best weights are kept, scored and sampled.
            Any other value, None included, lets the run go on. If it raises an exception, a
            checkpoint is saved, from which the run can be resumed, and the exception is raised.
        progress: Print the notes and the rows of the command line to stdout, as plain lines.
        terminal: Where the command line writes; it replaces `progress`.

    Raises a NanochatError for every mistake of the user, and `RunInterrupted` after SIGINT or
    SIGTERM, once the checkpoint is saved.

    Example:
        >>> import nanochat
        >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=3, num_samples=2))
        >>> run.metrics["steps"], len(run.samples)
        (3, 2)
    """
    started = time.perf_counter() - elapsed_s
    requested = config_or_default(config, TrainConfig)
    if requested.show_mask:
        raise ConfigError(
            "show_mask belongs to the command line; use `nanochat train --show-mask`, or leave it"
            " out"
        )
    asked, named_file = requested.given, requested.model_file
    check_on_evaluation(on_evaluation)
    if progress and terminal is SILENT:
        from nanochat.output.printed import PrintedTerminal

        terminal = PrintedTerminal()
    terminal = terminal if processes.rank() == 0 else SILENT
    if requested.log == "tensorboard":
        from nanochat.training.event_log import require_tensorboard

        require_tensorboard()  # before any work
    with ExitStack() as stack:
        stack.enter_context(telling(terminal.note))
        folder, checkpoint, source, kept, chosen = None, None, None, None, None
        counts: Mapping[str, Any] = {}
        if requested.final_on_all is not None:
            from nanochat.commands.final_on_all import chosen_by

            chosen = chosen_by(requested, terminal)
            kept = chosen.checkpoint.run_folder  # has copies of standard input and URLs
            requested, asked = chosen.config, chosen.config.given
            terminal.note(str(chosen))
        if requested.init_from is not None:
            from nanochat.commands.init_from import initialized_config, read_source

            source = read_source(requested, terminal)
            if "data" not in requested.given:  # the source's own text
                check_own_text(source.checkpoint, "name a text with --data")
                kept = source.checkpoint.run_folder
            requested = initialized_config(requested, source)
        if requested.resume:
            folder, checkpoint = stack.enter_context(_resumed_run(requested, terminal))
            _check_own(requested, checkpoint, terminal)
        elif requested.out is not None and processes.rank() == 0:
            refuse_used(Path(requested.out))  # before any work; again when the folder is created
        first = checkpoint or (source and source.checkpoint) or (chosen and chosen.checkpoint)
        own, requested = own_model(requested, named_file, first or None)
        text = RunText(
            known=source.tokenizer if source is not None else _kept_tokenizer(checkpoint),
            extend=requested.extend_vocabulary if source is not None else True,
            folder=checkpoint.run_folder if checkpoint else kept,
            checkpoint=checkpoint,
        )
        if checkpoint is None and chosen is None:
            requested, text = for_conversations(requested, asked, text)
        if source is not None:
            requested, text = regularized(requested, asked, text, terminal)
        complete, mode_is_given, fit, text = complete_config(
            requested, checkpoint, text, started, terminal, own
        )
        resolved, dataset, mode_reason = resolve(complete, mode_is_given, text)
        del text  # as large as the text
        check_can_be_saved(resolved.to_dict(), dataset.tokenizer.to_dict())
        if checkpoint is not None:
            _check_same_data(dataset, checkpoint)
        elif dataset.warning:
            terminal.warn(dataset.warning)
        if source and (warning := source.split_warning(resolved, dataset.split_sha256)):
            terminal.warn(warning)
        engine = _build_engine(resolved, dataset, checkpoint, source, own)
        recorder = recorder_of(resolved, dataset, checkpoint, terminal, own)
        if checkpoint is not None:
            _check_same_checkpoint(checkpoint)
        origin = source.record() if source else None
        if folder is None and processes.rank() == 0:
            folder = stack.enter_context(_new_run(resolved, origin, chosen, own))
            dataset.keep_sources(folder.path)
            counts = keep_counts(dataset, folder)
        if checkpoint is None:
            dataset = share_counts(dataset, folder, counts)
        run = _Run(
            config=resolved, dataset=dataset, engine=engine, own=own, folder=folder,
            resumed_from=checkpoint, terminal=terminal,
            initialized_from=checkpoint.data.get("initialized_from") if checkpoint else origin,
            counts=named_counts(checkpoint) if checkpoint else counts,
            deadline=_deadline(resolved, fit, checkpoint, started), recorder=recorder,
        )  # fmt: skip
        run.watch = Watch(on_evaluation, preview(run))
        announce(run, _parameter_count(run), mode_reason)
        try:
            result = _train(run)
        except RunInterrupted as stopped:
            raise with_way_on(stopped, folder, resolved.model_file) from None
        if run.deadline is not None:
            run.config = run.deadline.repeatable(run.config, result.steps)
            if folder is not None:
                folder.write_config(run.config.to_dict())
        _note_best(run, result)
        metrics = _metrics(run, result, _final_evaluation(run, result))
        samples, path = finish(run, metrics)
        return TrainResult(metrics=metrics, samples=samples, run=path)


def _deadline(
    resolved: TrainConfig, fit: Fit | None, checkpoint: Checkpoint | None, started: float
) -> Deadline | None:
    if fit is not None:
        return fit.deadline(resolved)
    if checkpoint is not None and checkpoint.trainer.budget is not None:
        from nanochat.training.deadline import Deadline

        return Deadline.resumed(resolved, checkpoint.trainer, started)
    return None


def _kept_tokenizer(checkpoint: Checkpoint | None) -> Tokenizer | None:
    if checkpoint is None:
        return None
    from nanochat.runs.load import kept_tokenizer

    return kept_tokenizer(checkpoint)


def _build_engine(
    resolved: TrainConfig,
    dataset: Dataset,
    checkpoint: Checkpoint | None,
    source: Source | None,
    own: ModelFile | None,
) -> Engine:
    longest = dataset.longest_segment(resolved.block_size)
    engine = build_engine(
        resolved, dataset.tokenizer.vocab_size, longest, counts=dataset.counts, own=own
    )  # fmt: skip
    if checkpoint is not None:
        engine.load_state_dict(checkpoint.state)
    elif source is not None:
        engine.load_state_dict(source.initial_state(resolved, dataset.tokenizer, own))
    return engine


@contextmanager
def _new_run(
    resolved: TrainConfig,
    origin: Mapping[str, Any] | None,
    chosen: Chosen | None,
    own: ModelFile | None,
) -> Iterator[RunFolder]:
    """Create and lock the run's folder, with its config and environment."""
    with new_run(resolved.out, f"{resolved.model_kind}-{resolved.mode}") as folder:
        environment = describe_environment(resolved.threads)
        if origin is not None:
            environment["initialized_from"] = origin
        if chosen is not None:
            environment["chosen_by"] = chosen.record()
        folder.write_json(folder.environment, environment)  # first: see runs/folder.py
        folder.write_config(resolved.to_dict())
        if own is not None:
            folder.write_model(own.source)
        yield folder


# ------------------------------------------------------------------------------------- resuming


@contextmanager
def _resumed_run(
    requested: TrainConfig, terminal: Terminal
) -> Iterator[tuple[RunFolder | None, Checkpoint]]:
    """Lock the folder of the run to resume and read its newest checkpoint. Processes above
    rank 0 only read it."""
    folder = RunFolder(run_to_resume(requested))
    with ExitStack() as stack:
        if processes.rank() == 0:
            lock = stack.enter_context(locked(folder.path))
            refuse_links(folder.path)
            folder = RunFolder(folder.path, lock)
            clear_leftovers(folder.checkpoints)
        checkpoint, skipped = newest_checkpoint(folder.checkpoints)
        for reason in skipped:
            terminal.warn(reason)
        yield folder if processes.rank() == 0 else None, checkpoint


def _check_own(requested: TrainConfig, checkpoint: Checkpoint, terminal: Terminal) -> None:
    """Raise CheckpointError for a text that another user named, and say what the run asks for."""
    if "data" not in requested.given:
        check_own_text(checkpoint, "name it again with --data")
    if not is_own(checkpoint):
        options, budget = checkpoint.options, checkpoint.trainer.budget
        length = str(budget["time_budget"]) if budget else f"{options.steps:,} steps"
        terminal.note(
            f"{checkpoint.path} is not known as a checkpoint of this user on this machine; it asks"
            f" for {length} of {options.batch_size:,} × {options.grad_accum:,} rows,"
            f" threads {options.threads} and {options.num_samples:,} samples"
        )


def _check_same_checkpoint(checkpoint: Checkpoint) -> None:
    """Raise ProcessGroupError if this process found another checkpoint than rank 0: each searches
    on its own disk, where rank 0 may just clear what a crash has left."""
    if processes.world() == 1:
        return
    from nanochat.tensor.distributed import from_rank_0

    own = f"step {checkpoint.trainer.step}, weights {checkpoint.weights_sha256[:12]}…"
    first = from_rank_0(own)
    if own != first:
        raise ProcessGroupError(
            f"rank {processes.rank()} must resume from the checkpoint of rank 0 ({first}), got"
            f" {checkpoint.path} ({own}); start the processes again, on the same files"
        )


def _check_same_data(dataset: Dataset, checkpoint: Checkpoint) -> None:
    now, then = dataset.split_sha256, checkpoint.data["split_sha256"]
    if now != then or dataset.tokenizer.to_dict() != checkpoint.tokenizer:
        way_out = "restore the text or start a new run"
        if checkpoint.config["model_kind"] == "mini-gpt":
            way_out += f" from these weights with --init-from {checkpoint.path.parent.parent}"
        raise CheckpointError(
            f"the text must be that of the checkpoint (split SHA-256 {then[:12]}…), got"
            f" {now[:12]}…; {way_out}"
        )


# --------------------------------------------------------------------------------------- running


def _parameter_count(run: _Run) -> int:
    config, vocab_size = run.config, run.dataset.tokenizer.vocab_size
    specs = parameter_specs(config, vocab_size, changes_of(run.own, config))
    return sum(spec.shape[0] * spec.shape[1] for spec in specs)


def _train(run: _Run) -> LoopResult:
    config, dataset, checkpoint = run.config, run.dataset, run.resumed_from
    batcher = dataset.batcher(config, processes.rank(), processes.world())
    evaluation_set = dataset.evaluation_set(config)
    run.baseline = start_baseline(config, dataset)
    start = _start_state(config, checkpoint) if checkpoint else None
    log = _open_log(run.folder, config)
    try:
        if start is not None:
            lacking = log.truncate(start.metrics_length)
            if lacking:
                run.terminal.warn(lacking)
        done = start.step if start else 0
        time_left_s = run.deadline.time_left_s if run.deadline else None
        progress = run.terminal.progress(config.steps, done, run.watch.sample, time_left_s)
        if run.folder is not None and forget_nonfinite(run.folder):
            run.folder.write_config(config.to_dict())  # with the rates that were lowered
        with stop_requested() as stop, progress as observer:
            return train_loop(
                run.engine, config, batcher, evaluation_set, dataset.tokenizer.token_bytes,
                log=log, save=partial(_save, run), observer=observer, start=start,
                last_checkpoint=str(checkpoint.path) if checkpoint else None, stop=stop,
                world=processes.world(), pace=run.deadline,
                clock=run.deadline.clock if run.deadline else time.perf_counter,
                goes_on=run.watch.goes_on, fits_share=fits_share(config, dataset),
                recorder=run.recorder,
            )  # fmt: skip
    except NonFiniteStep as error:
        if run.folder is not None:
            write_nonfinite(run.folder, error, batcher, run.engine, config, run.deadline)
        raise
    finally:
        log.close()


def _open_log(folder: RunFolder | None, config: TrainConfig) -> JsonlWriter | NullWriter:
    if folder is None:
        return NullWriter()
    folder.check_in_place()
    if config.log == "tensorboard":
        from nanochat.training.event_log import EventLog

        return EventLog(folder.metrics, folder.events)
    return JsonlWriter(folder.metrics)


def _start_state(config: TrainConfig, checkpoint: Checkpoint) -> TrainerState:
    """Return where the loop goes on.

    A checkpoint counts the evaluations before its own step, which the loop repeats. It does not if
    that was the last step of a run that now has more; then `best` tells how the evaluation ended.
    """
    start = checkpoint.trainer
    if not Cadence(config.steps, config.eval_every, 0).evaluates(start.step):
        with suppress(CheckpointError):
            mark = read_best(checkpoint.path.parent)
            if mark.step == start.step:
                return dataclasses.replace(
                    start, best_step=mark.step, best_loss=mark.val_loss, misses=0
                )
    return start


def _save(run: _Run, trainer: TrainerState, state: EngineState, best: Best | None) -> str:
    """Save a checkpoint, remove those that `keep` does not name, and return its name."""
    if run.folder is None:
        if best is not None:
            run.best_state = scored_state(state)
        return f"step-{trainer.step:06d} (by rank 0)"
    config = run.config
    if run.deadline is not None:
        budget = run.deadline.state(trainer.step)
        steps = config.steps if budget else trainer.step
        config = run.deadline.repeatable(config, steps)
        trainer = dataclasses.replace(trainer, budget=budget)
    run.folder.check_in_place()
    if run.recorder is not None:
        write_history(run.folder.path, run.recorder.history())  # a resume goes on with it
    path = save_checkpoint(
        run.folder.checkpoints, config=config.to_dict(),
        tokenizer=run.dataset.tokenizer.to_dict(), data=_data_record(run), trainer=trainer,
        state=state,
    )  # fmt: skip
    if best is not None:
        mark_best(path, best.loss)
    prune_checkpoints(run.folder.checkpoints, parse_keep(run.config.keep), whole=path)
    return str(path)


def _load_best(run: _Run) -> None:
    """Load the best weights into the engine, with which the run ends. Raises CheckpointError."""
    state = run.best_state
    if run.folder is not None:
        run.folder.check_in_place()
        found = find_checkpoint(run.folder.path, "best")
        for reason in found.skipped:
            run.terminal.warn(reason)
        state = scored_state(found.state)
    if state is not None:  # above rank 0, a resumed run may have its best before the resume
        run.engine.load_state_dict(state)


def _final_evaluation(run: _Run, result: LoopResult) -> EvalMetrics:
    """Return the score of the best weights on all of the validation text."""
    config, dataset = run.config, run.dataset
    best_is_last = result.best.step == result.steps
    if not best_is_last or config.ema:
        _load_best(run)
    if best_is_last and config.eval_tokens == 0:
        return result.evaluation
    fits = run.deadline is None or run.deadline.scores_all
    if not fits and 0 < config.eval_tokens < dataset.val.pairs:
        run.terminal.note(
            "no time left to score all validation text: its figures are those of about"
            f" {config.eval_tokens:,} of {dataset.val.token_count:,} tokens; `nanochat eval` scores"
            " all"
        )
    batches: Iterable[Batch] = (
        dataset.validation_batches(config) if fits else dataset.evaluation_set(config)
    )
    step = result.best.step
    final = evaluate(run.engine, batches, dataset.tokenizer.token_bytes, step)
    if final.loss is not None:
        check_finite_loss("validation loss", final.loss, step, None)
    return final


def _note_best(run: _Run, result: LoopResult) -> None:
    """Say which step is kept if it is not the last one, and why the run ended early."""
    best = result.best.step
    if result.stopped_early:
        evaluations = counted(run.config.patience, "evaluation")
        run.terminal.note(
            f"stopped after step {result.steps} of {run.config.steps}: {evaluations} without a"
            f" lower validation loss (patience {run.config.patience})"
        )
    elif result.was_ended and result.steps < run.config.steps:
        run.terminal.note(
            f"stopped after step {result.steps} of {run.config.steps}: on_evaluation returned False"
        )
    elif run.deadline is not None and run.deadline.needs_no_more(result.steps):
        readings = result.tokens / run.dataset.train.token_count
        run.terminal.note(
            f"ended after step {result.steps}, {readings:.1f} readings of the text: with more, a"
            " model learns so little text by heart; name a --preset to use all of the time"
        )
    if best != result.steps:
        run.terminal.note(f"validation has not improved since step {best}; keeping step {best}")


def _data_record(run: _Run) -> dict[str, Any]:
    """Return what a checkpoint keeps about its data and, if there is one, its source."""
    origin = run.initialized_from
    record = {**run.dataset.describe(), **run.counts, **seal(run.config)}
    if run.own is not None:
        record["model_file"] = run.own.record(run.config)
    return {**record, **({"initialized_from": dict(origin)} if origin else {})}


# ------------------------------------------------------------------------------------- finishing


def _metrics(run: _Run, result: LoopResult, final: EvalMetrics) -> dict[str, Any]:
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
        "params": _parameter_count(run),
        "steps": result.steps,
        "final_loss": result.final_loss,
        "val_loss": final.loss,
        "val_bpb": final.bpb,
        "val_source": dataset.val_source,
        "mean_loss_last_50": result.mean_loss_last_50,
        "steps_per_sec": result.steps * rate,
        "tokens_per_sec": result.tokens * rate,
        "vocab_size": dataset.tokenizer.vocab_size,
        "train_tokens": result.tokens,
        "seed": config.seed,
        "best_step": result.best.step,
        "best_val_loss": result.best.loss,
    }
