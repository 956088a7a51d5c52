"""Option record: what a run keeps of its parameters, from the first step or after a resume."""

from __future__ import annotations

from nanochat.config.option import shown
from nanochat.config.options import TrainConfig
from nanochat.config.record import parse_record
from nanochat.data.dataset import Dataset
from nanochat.errors import CheckpointError, ConfigError
from nanochat.model.model_file import ModelFile, changes_of
from nanochat.model.parameters import parameter_specs
from nanochat.output.terminal import Terminal
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.history import read_history
from nanochat.training.history import Recorder

__all__ = ["recorder_of"]


def recorder_of(
    config: TrainConfig,
    dataset: Dataset,
    checkpoint: Checkpoint | None,
    terminal: Terminal,
    own: ModelFile | None,
) -> Recorder | None:
    """Return what keeps the parameters of option record, with what an earlier process has kept.

    Raises ConfigError for a parameter that the model does not have.
    """
    places = parse_record(config.record)
    if places is None:
        return None
    specs = parameter_specs(config, dataset.tokenizer.vocab_size, changes_of(own, config))
    recorder = Recorder(places, specs, config.steps)
    step = checkpoint.trainer.step if checkpoint is not None else 0
    if checkpoint is None or not step:
        return recorder
    try:
        history = read_history(checkpoint.run_folder, specs)
    except CheckpointError as error:
        terminal.warn(f"{error}; recording begins after step {step}")
        return recorder
    if history is None:
        terminal.warn(f"the run has recorded nothing so far; recording begins after step {step}")
    elif recorder.fits(history):
        recorder.load(history, step)
    else:
        names = ",".join(map(str, history.places))
        raise ConfigError(
            f"record must name the same parameters in the whole run, got {shown(config.record)}"
            f" after {shown(names)}; leave it out to go on, or use record none"
        )
    return recorder
