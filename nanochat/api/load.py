"""`nanochat.load`: from the name of a run to a model. Leaves out what the model can do."""

from __future__ import annotations

import os
import warnings

from nanochat.api.language_model import LanguageModel
from nanochat.config.options import SampleConfig
from nanochat.runs.load import load_trained, read_checkpoint

__all__ = ["load"]

_DEFAULTS = SampleConfig()


def load(
    run: str | os.PathLike[str] | None = None,
    *,
    checkpoint: str | int | os.PathLike[str] = _DEFAULTS.checkpoint,
    mode: str = _DEFAULTS.mode,
    device: str = _DEFAULTS.device,
    dtype: str = _DEFAULTS.dtype,
    threads: int = _DEFAULTS.threads,
    model_file: str | os.PathLike[str] | None = None,
) -> LanguageModel:
    """Load a trained model. The arguments mean the same as those of `nanochat sample`.

    Args:
        run: folder of a run, its name in `runs/`, or the folder of a checkpoint. Default: the
            newest finished run in `runs/`.
        checkpoint: `"best"` (the default), `"last"`, a step, or instead of `run` the path of a
            checkpoint or run.
        mode: engine, `"scalar"` or `"tensor"`. Default: the engine that trained the checkpoint. The
            scalar engine needs no torch.
        device: device of the tensor engine, `"cpu"`, `"cuda"` or `"mps"`.
        dtype: number format, `"float64"`, `"float32"` or `"bfloat16"`.
        threads: CPU threads; 0: one per core.
        model_file: the file of a run that was trained with one. Its code is run, so a run that
            needs one is loaded only with it.

    Warns:
        UserWarning: another checkpoint was taken because the best or the newest one is damaged.

    Raises:
        CheckpointError: no run has this name, or no checkpoint of it can be read.
        ConfigError: a value is not allowed, or the engine does not support the model.
        ModelFileError: a fault in the model file.
        MissingDependency: mode tensor without torch.

    Example:
        >>> import nanochat
        >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=3, num_samples=0))
        >>> model = nanochat.load(run.run)
        >>> model.generate("an", max_new_tokens=5).startswith("an")
        True
    """
    is_step = isinstance(checkpoint, int) and not isinstance(checkpoint, bool)
    options = SampleConfig(
        run=run,  # type: ignore[arg-type]  # a path is accepted
        checkpoint=str(checkpoint) if is_step else checkpoint,  # type: ignore[arg-type]  # a path
        mode=mode, device=device, dtype=dtype, threads=threads,
        model_file=model_file,  # type: ignore[arg-type]  # a path
    )  # fmt: skip
    found, config, skipped = read_checkpoint(options.checkpoint, options.run)
    for reason in skipped:
        warnings.warn(reason, stacklevel=2)
    return LanguageModel(load_trained(options, found, config), config)
