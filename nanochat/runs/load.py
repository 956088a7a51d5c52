"""Loading a trained model, for every command that reads one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nanochat.config.option import shown
from nanochat.config.options import BEST, RUNS_DIR, EvalConfig, SampleConfig, TrainConfig
from nanochat.data.tokenizer import Tokenizer, tokenizer_from_dict
from nanochat.engines import build_engine, resolve_hardware
from nanochat.errors import CheckpointError, ConfigError
from nanochat.runs.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from nanochat.runs.find import find_run, is_checkpoint, marked_step, step_folders
from nanochat.training.engine import Engine, EngineState

__all__ = [
    "TrainedModel",
    "config_of",
    "find_checkpoint",
    "kept_tokenizer",
    "load_trained",
    "read_checkpoint",
]

LAST = "last"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """An engine with the weights of a checkpoint, and the checkpoint itself."""

    engine: Engine
    config: TrainConfig
    tokenizer: Tokenizer
    checkpoint: Checkpoint


def read_checkpoint(
    checkpoint: str = BEST,  # best, last, a step, or the path of a checkpoint or run
    run: str | None = None,  # a path, or the name of a run in runs/; None: the newest finished run
) -> tuple[Checkpoint, TrainConfig, list[str]]:
    """Return the checkpoint, its config, and why newer checkpoints were skipped.

    Raises CheckpointError.
    """
    found, skipped = _found(checkpoint, run)
    return found, config_of(found), skipped


def config_of(checkpoint: Checkpoint) -> TrainConfig:
    """Return the config of a checkpoint. Raises CheckpointError for that of another version."""
    try:
        return TrainConfig(**checkpoint.config)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.path} has a config of another version: {error}"
        ) from error


def kept_tokenizer(checkpoint: Checkpoint | None) -> Tokenizer | None:
    """Return the tokenizer of a run that took it from another run, otherwise None.

    Every other run makes its tokenizer from its text, and so does a command that reads the text
    again.
    """
    if checkpoint is None or checkpoint.config.get("init_from") is None:
        return None
    return tokenizer_from_dict(checkpoint.tokenizer)


def _found(checkpoint: str, run: str | None) -> tuple[Checkpoint, list[str]]:
    if not _is_choice(checkpoint):
        if run is not None:
            raise CheckpointError(
                f"run {shown(run)} and checkpoint {shown(checkpoint)} both name a model; leave one"
                " out, or give checkpoint as best, last or a step"
            )
        run, checkpoint = checkpoint, BEST
    path = find_run(run, Path(RUNS_DIR))
    if not is_checkpoint(path) or step_folders(path):
        return _chosen(path, checkpoint)
    if checkpoint != BEST:
        raise CheckpointError(
            f"{path} is one checkpoint, got checkpoint {shown(checkpoint)}; leave it out or name"
            " the run"
        )
    return load_checkpoint(path), []


def _is_choice(checkpoint: str) -> bool:
    return checkpoint in (BEST, LAST) or checkpoint.isdecimal()


def find_checkpoint(run: Path, which: str) -> Checkpoint:
    """Return a checkpoint of a run: `best`, `last`, a step, or the path of a checkpoint.

    `best` is the last one if the run has no best checkpoint. Raises CheckpointError.
    """
    return _chosen(run, which)[0] if _is_choice(which) else load_checkpoint(Path(which))


def _chosen(run: Path, which: str) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint of the run, and why newer ones were skipped."""
    steps = step_folders(run)
    best = marked_step(run) if which == BEST else None
    if best is not None:
        try:
            return load_checkpoint(steps[best]), []
        except CheckpointError as error:
            newest, skipped = resolve_checkpoint(run, Path(RUNS_DIR))
            reason = f"{error}; using the newest checkpoint instead, {newest.path.name}"
            return newest, [reason, *skipped]
    if which in (BEST, LAST):
        return resolve_checkpoint(run, Path(RUNS_DIR))
    if int(which) not in steps:
        raise CheckpointError(f"{run} has no checkpoint of step {which}; {_steps_text(steps)}")
    return load_checkpoint(steps[int(which)]), []


def _steps_text(steps: dict[int, Path]) -> str:
    if not steps:
        return "it holds none"
    listed = [str(step) for step in steps]
    shown_steps = listed if len(listed) <= 8 else [*listed[:3], "…", *listed[-4:]]
    return f"it has {', '.join(shown_steps)}"


def load_trained(
    options: SampleConfig | EvalConfig, checkpoint: Checkpoint, config: TrainConfig
) -> TrainedModel:
    """Build the engine that `options` names, by default the checkpoint's, with its weights.

    The engine, device and dtype may differ from those of the training. The optimizer's state is
    not loaded.
    """
    mode = config.mode if options.mode == "auto" else options.mode
    device = options.device
    if device == "auto":
        device = config.device if mode == config.mode else "auto"
    dtype = options.dtype
    if dtype == "auto":
        dtype = config.dtype if mode == config.mode and device == config.device else "auto"
    requested = dataclasses.replace(
        config,
        mode=mode,
        device=device,
        dtype=dtype,
        threads=options.threads,
        dropout=0.0,
        numerics=config.numerics if mode == config.mode else "fast",
        loss=config.loss if device == config.device else "torch" if device == "mps" else "fused",
    )
    resolved = resolve_hardware(requested)
    tokenizer = tokenizer_from_dict(checkpoint.tokenizer)
    engine = build_engine(resolved, tokenizer.vocab_size)
    engine.load_state_dict(EngineState(weights=checkpoint.state.weights, optimizer={}))
    return TrainedModel(engine=engine, config=resolved, tokenizer=tokenizer, checkpoint=checkpoint)
