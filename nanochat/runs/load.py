"""Loading a trained model, for every command that reads one."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import shown
from nanochat.config.options import (
    BEST,
    RUNS_DIR,
    ChatConfig,
    EvalConfig,
    ExportConfig,
    InspectConfig,
    SampleConfig,
    ServeConfig,
    TrainConfig,
)
from nanochat.data.documents import Documents
from nanochat.data.tokenizer import Tokenizer
from nanochat.engines import build_engine, resolve_hardware
from nanochat.errors import CheckpointError, ConfigError, UnsupportedOption
from nanochat.model.model_file import ModelFile, load_model_file
from nanochat.ngram.adaptive import AdaptiveCounts
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import exact_probabilities, probabilities
from nanochat.runs.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from nanochat.runs.counts import counts_of
from nanochat.runs.find import find_run, is_checkpoint, step_folders
from nanochat.runs.folder import MODEL
from nanochat.sampling.adaptive import adaptive_mixture
from nanochat.sampling.mixed import NetworkAlone, mixed_with
from nanochat.sampling.sampling import OpensDecoders
from nanochat.system.wording import as_word, printable
from nanochat.training.average import scored_state
from nanochat.training.engine import Engine

__all__ = [
    "TrainedModel",
    "check_network_only",
    "config_of",
    "kept_tokenizer",
    "load_trained",
    "own_model_of",
    "read_checkpoint",
]

LAST = "last"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """An engine with the weights or counts of a checkpoint, and the checkpoint itself."""

    engine: Engine
    config: TrainConfig
    tokenizer: Tokenizer
    checkpoint: Checkpoint
    # That the network is mixed with, unless it is to predict alone, or that predict alone.
    counts: KneserNey | None
    own: ModelFile | None = None  # with the model of the config

    @property
    def mixture(self) -> OpensDecoders:
        """What samples are drawn from."""
        if self.config.ngram_order and self.counts is None:
            return NetworkAlone(self.engine)
        return mixed_with(self.engine, self.counts, self.config.threads)

    @property
    def adaptive_mixture(self) -> OpensDecoders:
        """What samples are drawn from, with counts that grow with each text.

        Raises ConfigError without counts.
        """
        if self.counts is None:
            raise ConfigError(
                f"adapt needs a model with counts, got {self.checkpoint.path} with ngram_order 0;"
                " leave adapt out, or train with --ngram-order auto"
            )
        network = None if self.config.model_kind == "ngram" else self.engine
        return adaptive_mixture(network, self.counts)

    def adaptive_counts(self) -> AdaptiveCounts | None:
        """Return counts that grow with a text, if there are any."""
        return None if self.counts is None else AdaptiveCounts(self.counts)

    def by_counts(self, documents: Documents) -> NDArray[np.floating] | None:  # (pairs,)
        """Return the probability of each target by the counts, if there are any."""
        if self.counts is None:
            return None
        if self.config.model_kind == "ngram":
            return exact_probabilities(self.counts, documents)
        return probabilities(self.counts, documents)

    @property
    def longest_prompt(self) -> int:
        """Tokens that a prompt may have. Counts read any text, and of it the last few tokens."""
        return sys.maxsize if self.config.model_kind == "ngram" else self.config.block_size


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
    """Return the config of a checkpoint, without the folder that its run was in."""
    return checkpoint.options.changed(out=None)


def kept_tokenizer(checkpoint: Checkpoint | None) -> Tokenizer | None:
    """Return the tokenizer of a run that took it from another run, otherwise None.

    Every other run makes its tokenizer from its text, and so does a command that reads the text
    again.
    """
    if checkpoint is None or checkpoint.config.get("init_from") is None:
        return None
    return checkpoint.built_tokenizer()


def _found(checkpoint: str, run: str | None) -> tuple[Checkpoint, list[str]]:
    if not _is_choice(checkpoint):
        if run is not None:
            raise CheckpointError(
                f"run {shown(run)} and checkpoint {shown(checkpoint)} both name a model; leave one"
                " out, or give checkpoint as best, last or a step"
            )
        try:
            path = find_run(checkpoint, Path(RUNS_DIR))
        except CheckpointError as error:
            if os.path.exists(checkpoint):
                raise
            raise CheckpointError(
                "checkpoint must be best, last, a step, or the path of a checkpoint or run, got"
                f" {shown(checkpoint)}: {error}"
            ) from error
        checkpoint = BEST
    else:
        path = find_run(run, Path(RUNS_DIR))
    if not is_checkpoint(path) or step_folders(path):
        found = find_checkpoint(path, checkpoint)
        return found, found.skipped
    if checkpoint != BEST:
        raise CheckpointError(
            f"{path} is one checkpoint, got checkpoint {shown(checkpoint)}; leave it out or name"
            " the run"
        )
    return load_checkpoint(path), []


def _is_choice(checkpoint: str) -> bool:
    return checkpoint in (BEST, LAST) or checkpoint.isdecimal()


def check_network_only(
    options: SampleConfig | EvalConfig | ExportConfig, checkpoint: Checkpoint, config: TrainConfig
) -> None:
    """Raise UnsupportedOption if `network_only` needs counts or a network that the model lacks."""
    if options.network_only and config.model_kind == "ngram":
        raise UnsupportedOption(
            f"network_only needs a model with a network, got {checkpoint.path}, whose model_kind is"
            " ngram; leave network_only out"
        )
    if options.network_only and not config.ngram_order:
        raise UnsupportedOption(
            f"network_only needs a model with counts, got {checkpoint.path}, which has ngram_order"
            " 0; leave network_only out"
        )


def own_model_of(checkpoint: Checkpoint, path: str | None) -> ModelFile | None:
    """Import the file with the model of a checkpoint, which the user must name: a run folder may
    come from anybody, so it never decides which code is run.

    Raises CheckpointError without such a path, ConfigError for another file than that of the
    training, and ModelFileError for a fault in it.
    """
    recorded, run = checkpoint.config.get("model_file"), checkpoint.run_folder
    if recorded is None:
        if path is not None:
            raise ConfigError(
                f"model_file needs a run that was trained with one, got {checkpoint.path}; leave it"
                " out"
            )
        return None
    if path is None:
        copy = run / MODEL
        named = copy if copy.is_file() and not copy.is_symlink() else recorded
        raise CheckpointError(
            f"{checkpoint.path} uses the model in {printable(recorded)}, which is code; if you"
            f" trust it, add --model-file {as_word(str(named))}"
        )
    return load_model_file(path, checkpoint.data["model_file"]["sha256"], of=str(checkpoint.path))


def load_trained(
    options: SampleConfig | ChatConfig | EvalConfig | InspectConfig | ServeConfig,
    checkpoint: Checkpoint,
    config: TrainConfig,
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
    requested = config.changed(
        mode=mode,
        device=device,
        dtype=dtype,
        threads=options.threads,
        dropout=0.0,
        ema=0.0,
        weight_decay=0.0,  # a model that adapts returns to its trained weights instead
        optimizer="adamw",  # a trained model needs none; the scalar engine knows no other
        auto_batch=False,
        compile=config.compile if mode == config.mode else "off",
        numerics=config.numerics if mode == config.mode else "fast",
        loss=config.loss if device == config.device else "torch" if device == "mps" else "fused",
    )
    resolved = resolve_hardware(requested)
    tokenizer = checkpoint.built_tokenizer()
    # `eval` scores the mixture as well.
    needs_counts = not isinstance(options, SampleConfig) or not options.network_only
    counts = counts_of(checkpoint) if needs_counts else None
    own = own_model_of(checkpoint, options.model_file)
    try:
        engine = build_engine(resolved, tokenizer.vocab_size, counts=counts, own=own)
        engine.load_state_dict(scored_state(checkpoint.state))
    except MemoryError as error:
        raise CheckpointError(
            f"the model of {checkpoint.path} does not fit in memory, with n_layer {config.n_layer},"
            f" n_embd {config.n_embd} and block_size {config.block_size}"
        ) from error
    return TrainedModel(
        engine=engine, config=resolved, tokenizer=tokenizer, checkpoint=checkpoint, counts=counts,
        own=own,
    )  # fmt: skip
