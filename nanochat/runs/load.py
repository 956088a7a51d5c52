"""Loading a trained model, for `sample` and `eval`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nanochat.config.options import RUNS_DIR, EvalConfig, SampleConfig, TrainConfig
from nanochat.data.tokenizer import Tokenizer, tokenizer_from_dict
from nanochat.engines import build_engine, resolve_hardware
from nanochat.errors import CheckpointError, ConfigError
from nanochat.runs.checkpoint import Checkpoint, resolve_checkpoint
from nanochat.training.average import averaged_weights
from nanochat.training.engine import Engine, EngineState

__all__ = ["TrainedModel", "load_trained", "read_checkpoint"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """An engine with the weights of a checkpoint, and the checkpoint itself."""

    engine: Engine
    config: TrainConfig
    tokenizer: Tokenizer
    checkpoint: Checkpoint


def read_checkpoint(path: str | None) -> tuple[Checkpoint, TrainConfig, list[str]]:
    """Return the checkpoint, its config, and why newer checkpoints were skipped.

    Raises CheckpointError.
    """
    checkpoint, skipped = resolve_checkpoint(None if path is None else Path(path), Path(RUNS_DIR))
    try:
        config = TrainConfig(**checkpoint.config)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.path} has a config of another version: {error}"
        ) from error
    return checkpoint, config, skipped


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
        ema=0.0,
        numerics=config.numerics if mode == config.mode else "fast",
        loss=config.loss if device == config.device else "torch" if device == "mps" else "fused",
    )
    resolved = resolve_hardware(requested)
    tokenizer = tokenizer_from_dict(checkpoint.tokenizer)
    engine = build_engine(resolved, tokenizer.vocab_size)
    weights = averaged_weights(checkpoint.state)
    engine.load_state_dict(EngineState(weights=weights, optimizer={}))
    return TrainedModel(engine=engine, config=resolved, tokenizer=tokenizer, checkpoint=checkpoint)
