"""The model file of a run: which file the user has named, and the engine that it defines."""

from __future__ import annotations

from nanochat.config.options import TrainConfig, merged_config
from nanochat.model.model_file import CLASSES, ModelFile, load_model_file
from nanochat.runs.checkpoint import Checkpoint

__all__ = ["own_model"]


def own_model(
    requested: TrainConfig,
    path: str | None,  # that the user has named; a run cannot name one
    first: Checkpoint | None,  # that the run goes on from
) -> tuple[ModelFile | None, TrainConfig]:
    """Import the model file that the user has named, and return the config with its engine."""
    if first is not None:
        from nanochat.runs.load import own_model_of

        own = own_model_of(first, path)
        if own is not None:
            own.check_defines(first.config["mode"])
        return own, requested
    if path is None:
        return None, requested
    requested.check_complete()
    own = load_model_file(path)
    if "mode" in requested.given:
        own.check_defines(requested.mode)
    elif not own.defines(requested.mode) or not all(map(own.defines, CLASSES)):
        given = {name: getattr(requested, name) for name in requested.given}
        only = next(mode for mode in CLASSES if own.defines(mode))
        requested = merged_config({}, {**given, "mode": only})
    return own, requested
