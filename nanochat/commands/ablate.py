"""`nanochat ablate`: a grid of training runs over seeds, resumable, with intervals.

Owns the grid, the choice of the runs that are left, and running them. The tables and the plot are
in output/ablation_report.py.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nanochat.commands.signals import expect_repeats
from nanochat.commands.train import train
from nanochat.config.option import AUTO, assign, config_or_default, shown
from nanochat.config.options import (
    ABLATIONS_DIR,
    AblateConfig,
    TrainConfig,
    closest,
    merged_config,
    options_of,
)
from nanochat.config.sources import read_config_file
from nanochat.config.unsupported import without_effect
from nanochat.errors import (
    AblationError,
    CheckpointError,
    ConfigError,
    NanochatError,
    OutputError,
    RunInterrupted,
)
from nanochat.model.model_file import read_model_file, short
from nanochat.output.ablation_report import Report, write_report
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.checkpoint import newest_checkpoint
from nanochat.runs.folder import RUN_FILES, RunFolder
from nanochat.runs.lock import LOCK, locked
from nanochat.system import processes
from nanochat.system.durable import make_folder, output_error
from nanochat.system.plain_files import read_plain, remove_entry
from nanochat.system.wording import counted, printable
from nanochat.training.metrics import METRIC_KEYS

__all__ = ["AblationResult", "PlannedRun", "ablate", "end_workers", "plan_runs"]

FIRST_SEED = 1337
# The question without --vary: does the head need a separate matrix, and the embedding a norm?
DEFAULT_VARY = ("tie_lm_head=true,false", "input_rmsnorm=true,false")
_NOT_OF_RUNS = (
    "out", "resume", "init_from", "extend_vocabulary", "final_on_all", "rank_timeout", "show_mask",
)  # fmt: skip
_NOT_VARIED = ("seed", "data_dir", *_NOT_OF_RUNS)
_ASK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of the grid, with the value of each varied option."""

    name: str  # of its folder
    variant: Mapping[str, Any]
    config: TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationResult:
    """The folder of the tables and their records: one per run, one per variant."""

    folder: Path
    runs: Sequence[Mapping[str, Any]]
    variants: Sequence[Mapping[str, Any]]

    def _repr_html_(self) -> str:
        """Return the variants as a table, for notebooks."""
        from nanochat.output.table import table_html
        from nanochat.training.metrics import format_metric

        names = list(dict.fromkeys(name for variant in self.variants for name in variant))
        rows = [[format_metric(variant.get(name)) for name in names] for variant in self.variants]
        return table_html(names, rows)


def ablate(
    config: AblateConfig | Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,  # TrainConfig options that all runs share
    *,
    terminal: Terminal = SILENT,
) -> AblationResult:
    """Train every variant with every seed and compare their validation losses.

    Finished runs of an earlier call with the same options are kept, unfinished runs are resumed.
    Raises ConfigError before any run if the grid cannot be built, and AblationError at the end if
    runs failed; the tables then hold the other runs.

    Example:
        >>> import nanochat
        >>> result = nanochat.ablate(
        ...     nanochat.AblateConfig(vary=("tie_lm_head=true,false",), seeds=2),
        ...     {"model_kind": "bigram", "mode": "scalar", "steps": 2, "eval_tokens": 50},
        ... )
        >>> len(result.runs), len(result.variants)
        (4, 2)
    """
    config = config_or_default(config, AblateConfig)
    if processes.world() > 1:
        raise ConfigError(
            f"ablate must be one process, got WORLD_SIZE {processes.world()}; use --jobs to train"
            " several runs at once, or unset WORLD_SIZE"
        )
    planned = plan_runs(config, base or {})
    folder = _folder(config)
    try:
        if not folder.is_dir():
            make_folder(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    if note := _preset_note(planned):
        terminal.note(note)
    failures = _run_all(planned, config.jobs, terminal)
    results = [(run, _result(_run_folder(run))) for run in planned]
    records = [_record(run, result) for run, result in results if result is not None]
    report = Report(list(planned[0].variant), records)
    variants = write_report(report, folder)
    terminal.ablation(report)
    terminal.result(f"ablation: {folder}")
    terminal.json_result({"runs": records, "variants": variants, "folder": folder})
    if failures:
        raise AblationError(
            f"{len(failures)} of {counted(len(planned), 'run')} failed, {_by_advice(failures)}"
        )
    return AblationResult(folder=folder, runs=records, variants=variants)


# -------------------------------------------------------------------------------------- the grid


def plan_runs(config: AblateConfig, base: Mapping[str, Any]) -> list[PlannedRun]:
    """Return every variant with every seed: variants in the order written, seeds inside.

    All runs use one engine: another engine or preset would change more than what is varied.
    """
    options = dict(base)
    known = options_of(TrainConfig)
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option {shown(name)} of the runs{closest(name, known)}")
    if not config.vary:
        options.setdefault("model_kind", "bigram")
    axes = _axes(config.vary or DEFAULT_VARY)
    _check_base(options, axes)
    seeds = _seeds(options.pop("seed", FIRST_SEED), config.seeds)
    folder = _folder(config)
    runs = _product(axes, seeds, options, folder)
    if "mode" not in axes and len({run.config.mode for run in runs}) > 1:
        runs = _product(axes, seeds, options, folder, {"mode": "tensor"})
    for run in runs:
        run.config.check_complete()  # the text chooses no preset
    for path in {run.config.model_file for run in runs} - {None}:
        read_model_file(str(path))  # before any run
    _refuse_twins(runs)
    return runs


def _preset_note(runs: Sequence[PlannedRun]) -> str:
    """Say that train would choose a preset for this text, where the runs have that of the engine.

    Otherwise variants that change the text would differ in their preset too.
    """
    config = runs[0].config
    if "preset" in config.given or config.model_kind != "mini-gpt" or "data" not in config.given:
        return ""
    presets = " and ".join(sorted({run.config.preset for run in runs}))
    return f"preset {presets}, by the engine and not by the text; give another one with --preset"


def _product(
    axes: Mapping[str, Sequence[Any]],
    seeds: range,
    options: Mapping[str, Any],
    folder: Path,
    engine: Mapping[str, Any] | None = None,  # the mode of all runs; None: that of each
) -> list[PlannedRun]:
    chosen = {"num_samples": 0, "baseline": False, **(engine or {})}
    runs = []
    for values in itertools.product(*axes.values()):
        variant = dict(zip(axes, values, strict=True))
        given = {**options, **variant}
        # A seed changes no check but its own range, and a check takes longer than a copy.
        checked: TrainConfig | None = None
        for seed in seeds:
            name = _run_name(variant, seed)
            own = {"seed": seed, "out": str(folder / name)}
            if checked is None or seed == seeds[-1]:
                checked = config = merged_config(chosen, {**given, **own})
            else:
                config = copy.copy(checked)
                assign(config, own)
            runs.append(PlannedRun(name=name, variant=variant, config=config))
    return runs


def _check_base(options: Mapping[str, Any], axes: Mapping[str, Any]) -> None:
    """Refuse options that differ between the runs."""
    for name in axes:
        if name in options:
            raise ConfigError(
                f"vary {name} must not be given as an option too, got {shown(options[name])}"
            )
    for name in _NOT_OF_RUNS:
        if name in options:
            raise ConfigError(
                f"{name} must not be an option of the runs, got {shown(options[name])}"
            )


def _seeds(first: Any, count: int) -> range:
    start = options_of(TrainConfig)["seed"].parse("seed", first)
    return range(start, start + count)


def _refuse_twins(runs: Sequence[PlannedRun]) -> None:
    """Refuse two runs of one folder."""
    seen: set[str] = set()
    for run in runs:
        if run.name in seen:
            raise ConfigError(f"vary must give each run a different name, got {run.name} twice")
        seen.add(run.name)


def _folder(config: AblateConfig) -> Path:
    """Return `out`, or a folder that ablations of the same options share."""
    return Path(config.out or Path(ABLATIONS_DIR, ",".join(_axes(config.vary or DEFAULT_VARY))))


def _axes(vary: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of each varied option."""
    axes: dict[str, list[Any]] = {}
    for text in vary:
        name, values = _axis(text)
        if name in axes:
            raise ConfigError(f"vary must name an option once, got {name} twice")
        axes[name] = values
    return axes


def _axis(text: str) -> tuple[str, list[Any]]:
    """Parse `n_layer=1,2` into a name and checked values."""
    name, _, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    known = options_of(TrainConfig)
    if name not in known or name in _NOT_VARIED:
        allowed = [option for option in known if option not in _NOT_VARIED]
        raise ConfigError(
            f"vary must name a training option, got {name!r:.60}{closest(name, allowed)}"
        )
    values = [
        known[name].parse(name, value.strip()) for value in listed.split(",") if value.strip()
    ]
    if not values:
        raise ConfigError(f"vary {name} must list values, as in {name}=a,b, got {text!r:.60}")
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ConfigError(
                f"vary {name} must list each value once, got {known[name].text(value)} twice"
            )
        seen.add(value)
    return name, values


def _run_name(variant: Mapping[str, Any], seed: int) -> str:
    known = options_of(TrainConfig)
    parts = [f"{name}={known[name].text(value).lower()}" for name, value in variant.items()]
    return re.sub(r"[^A-Za-z0-9_.,=+-]", "_", ",".join([*parts, f"seed={seed}"]))


# -------------------------------------------------------------------------------------- the runs


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a run failed."""

    message: str
    is_mendable: bool  # by the same command, once its cause is mended


def _by_advice(failures: Sequence[tuple[PlannedRun, _Failure]]) -> str:
    """Return the first failure for each advice, and the advice."""
    groups: dict[str, list[str]] = {}
    for run, failure in failures:
        changed = "options" if run.config.model_file is None else "options or the model file"
        advice = f"change the {changed} of such runs or leave them out, as they would fail again"
        if failure.is_mendable:
            advice = "mend the cause and run the same command again"
        groups.setdefault(advice, []).append(f"{run.name}: {failure.message}")
    if len(groups) == 1:
        return "".join(f"the first: {failed[0]}; {advice}" for advice, failed in groups.items())
    return "; ".join(
        f"{len(failed)} of them as {failed[0]}; {advice}" for advice, failed in groups.items()
    )


def _run_all(
    planned: Sequence[PlannedRun], jobs: int, terminal: Terminal
) -> list[tuple[PlannedRun, _Failure]]:
    """Train what is not finished; return the runs that failed, in the order of the grid."""
    left = [run for run in planned if not _is_finished(run)]
    if len(left) < len(planned):
        finished, runs = len(planned) - len(left), counted(len(planned), "run")
        terminal.note(f"{finished} of {runs} {'is' if finished == 1 else 'are'} finished already")
    failures: dict[str, _Failure] = {}
    for done, (run, failure) in enumerate(_outcomes(left, jobs), start=1):
        terminal.note(
            f"run {done}/{len(left)}  {run.name}{f'  failed: {failure.message}' if failure else ''}"
        )
        if failure:
            failures[run.name] = failure
    return [(run, failures[run.name]) for run in left if run.name in failures]


def _outcomes(
    runs: Sequence[PlannedRun], jobs: int
) -> Iterator[tuple[PlannedRun, _Failure | None]]:
    """Train the runs, `jobs` at a time; yield each with its failure as it ends."""
    if jobs == 1:
        for run in runs:
            yield run, _train_one(run.config)
        return
    # Processes share the cores: more threads than cores only wait for each other.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = get_context("spawn")
    # Otherwise a signal.py in the current folder is imported instead of Python's own module.
    with _environment("PYTHONSAFEPATH", "1"):
        pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_become_worker)
        try:
            waiting = list(reversed(runs))
            running: dict[Future[_Failure | None], PlannedRun] = {}
            while waiting or running:
                while waiting and len(running) < jobs:  # an interrupt leaves the rest unstarted
                    run = waiting.pop()
                    running[_submit(pool, run.config, threads)] = run
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), _outcome(future)
        except BaseException:
            end_workers(list((pool._processes or {}).values()))
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def end_workers(workers: Sequence[BaseProcess]) -> None:
    """Ask processes to end until they have; each saves its run first.

    Once is not enough: a worker that saves its run takes every signal until then for the same
    request, and would then wait for another run without end.
    """
    while running := [worker for worker in workers if worker.is_alive()]:
        for worker in running:
            worker.terminate()
        wait_for_any([worker.sentinel for worker in running], timeout=_ASK_AGAIN_S)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for the processes that start in the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _submit(
    pool: ProcessPoolExecutor, config: TrainConfig, threads: int
) -> Future[_Failure | None]:
    try:
        return pool.submit(_train_one, config, threads)
    except BrokenProcessPool as error:  # an earlier run's process was killed
        future: Future[_Failure | None] = Future()
        future.set_exception(error)
        return future


def _become_worker() -> None:
    """Ignore Ctrl-C except while a run trains, which saves it, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    expect_repeats()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the parent has ended, however it did; then let the run save itself and end."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # ends a worker that is not training
    while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        time.sleep(0.1)
    os._exit(1)


def _outcome(future: Future[_Failure | None]) -> _Failure | None:
    try:
        return future.result()
    except BrokenProcessPool:
        message = "its process was killed, possibly because memory ran out; lower jobs"
        return _Failure(message, is_mendable=True)


def _train_one(config: TrainConfig, threads: int = 0) -> _Failure | None:
    """Start or resume one run; return why if it failed."""
    options = config.to_dict()
    if threads and not config.threads:
        options["threads"] = threads
    folder = Path(str(config.out))
    try:
        if folder.exists():
            options["resume"] = _can_resume(RunFolder(folder))
            if not options["resume"]:
                _clear_unstarted(folder)
        resumed = {
            "out": options["out"], "resume": True, "num_samples": config.num_samples,
            "model_file": config.model_file,
        }  # fmt: skip
        train(TrainConfig(**resumed) if options["resume"] else TrainConfig(**options))
    except RunInterrupted as stopped:  # it ends the ablation, not only this run
        raise RunInterrupted(stopped.what, "run the same command again to go on") from None
    except NanochatError as error:
        return _Failure(str(error), error.is_mendable)
    return None


def _clear_unstarted(folder: Path) -> None:
    """Empty the folder of a run that ended before its first checkpoint, and no other folder."""
    with locked(folder):
        entries = sorted(folder.iterdir())
        for entry in entries:
            if entry.name not in RUN_FILES:
                raise OutputError(
                    f"{folder} holds {entry.name}, which no run wrote; choose another out"
                )
        for entry in entries:
            if entry.name != LOCK:
                remove_entry(entry)


def _can_resume(folder: RunFolder) -> bool:
    if not folder.config.exists():
        return False
    try:
        newest_checkpoint(folder.checkpoints)
    except CheckpointError:
        return False
    return True


def _run_folder(run: PlannedRun) -> RunFolder:
    return RunFolder(Path(str(run.config.out)))


def _is_finished(run: PlannedRun) -> bool:
    """Whether the run's folder holds its result. Raises ConfigError if its options differ."""
    folder = _run_folder(run)
    if _result(folder) is None and not _can_resume(folder):
        return False  # it ended before its first checkpoint, so it begins anew
    saved = read_config_file(str(folder.config), options_of(TrainConfig))
    resolved_later = {"device", "dtype", "batching", "documents", "separator", "threads"}
    not_saved = {*_NOT_OF_RUNS, *without_effect(run.config)}
    for name, value in run.config.to_dict().items():
        if name not in resolved_later | not_saved and value not in (AUTO, saved.get(name)):
            raise ConfigError(
                f"{folder.path} holds a run with {name} {saved.get(name)}, got {value};"
                " choose another out"
            )
    _check_same_model(run, folder)
    return _result(folder) is not None


def _check_same_model(run: PlannedRun, folder: RunFolder) -> None:
    """Raise ConfigError if the run's model file has changed since the run began."""
    path = run.config.model_file
    if path is None:
        return
    try:
        kept = hashlib.sha256(read_plain(folder.model)).hexdigest()
    except OSError:
        return  # a resume compares it with the checkpoint
    now = hashlib.sha256(read_model_file(path)).hexdigest()
    if kept != now:
        raise ConfigError(
            f"{folder.path} holds a run with another model_file {printable(path)} (SHA-256"
            f" {short(kept)}), got {short(now)}; choose another out"
        )


def _result(folder: RunFolder) -> dict[str, Any] | None:
    """Return the run's result; None without a whole one, which a resume writes again."""
    try:
        result = json.loads(read_plain(folder.result))
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(result, dict) and result.keys() >= set(METRIC_KEYS)
    return result if is_whole else None


def _record(run: PlannedRun, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a finished run: variant, seed, then its metrics."""
    return {
        **run.variant,
        "seed": run.config.seed,
        **{k: v for k, v in metrics.items() if k not in run.variant},
    }
