"""`nanochat export`: a trained network in the files of another program, verified with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import config_or_default
from nanochat.config.options import EvalConfig, ExportConfig, SampleConfig, TrainConfig
from nanochat.data.tokenizer import BOS
from nanochat.errors import CheckpointError, CorpusError, OutputError, UnsupportedOption
from nanochat.exporting.formats import Format, format_of
from nanochat.exporting.network import Network, check_expressible
from nanochat.exporting.verification import MOST_TOKENS, Verification, rows_of, verify
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.load import TrainedModel, check_network_only, load_trained, read_checkpoint
from nanochat.runs.text import text_of_run
from nanochat.sampling.sampling import SamplingSettings, sample_tokens
from nanochat.system.durable import output_error, sync_folder
from nanochat.system.json_text import json_bytes
from nanochat.training.average import averaged_weights
from nanochat.training.engine import HasProgram

__all__ = ["ExportResult", "export"]

RECORD = "export.json"  # in the folder of an export; only such a folder is replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """Where the files of an export are, and what the other program computes from them."""

    folder: Path
    files: tuple[str, ...]
    verified: Verification | None  # None: not asked for
    # With network_only: nats per token of the network alone, and with the counts.
    loss: float | None
    mixture_loss: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `nanochat export --json`."""
        return {**asdict(self), "folder": str(self.folder)}


def export(
    config: ExportConfig | Mapping[str, Any] | None = None, *, terminal: Terminal = SILENT
) -> ExportResult:
    """Write the network of a checkpoint for another program, and compare what it computes.

    The logits of at most 1,024 tokens of the run's validation text may differ by 1e-4, and a
    tokenizer must split this text into the same ids; otherwise no file is kept.
    Raises CheckpointError, UnsupportedOption for a network that the format cannot express,
    MissingDependency, OutputError and ExportError.
    """
    config = config_or_default(config, ExportConfig)
    checkpoint, trained_config, skipped = read_checkpoint(config.checkpoint, config.run)
    for reason in skipped:
        terminal.warn(reason)
    kind = format_of(config.to)
    _check(config, kind, checkpoint, trained_config)
    folder = Path(config.out or checkpoint.run_folder / "export" / config.to)
    place = Path(os.path.realpath(folder))  # a link keeps pointing to it
    _check_replaceable(place, folder)
    trained = _loaded(config, checkpoint, trained_config)
    network = _network(config, trained, trained_config)
    verified = None
    with _new_folder(place, folder) as written:
        kind.write(network, written, config.weights)
        if config.verify:
            rows = rows_of(_stream(trained, trained_config, terminal), trained_config.block_size)
            verified = verify(
                kind.load_and_run, written, network, trained.mixture, rows,
                rounded=config.weights != "f32",
            )  # fmt: skip
        record = {"format": config.to, "run": network.name, "step": checkpoint.trainer.step}
        (written / RECORD).write_bytes(json_bytes({**record, "config": trained_config.to_dict()}))
    files = tuple(sorted(path.name for path in place.iterdir() if path.name != RECORD))
    loss, mixture_loss = _losses(config, checkpoint, terminal)
    result = ExportResult(
        folder=folder, files=files, verified=verified, loss=loss, mixture_loss=mixture_loss
    )
    for line in _in_words(result):
        terminal.result(line)
    terminal.json_result(result.to_dict())
    return result


def _check(
    config: ExportConfig, kind: Format, checkpoint: Checkpoint, trained_config: TrainConfig
) -> None:
    """Raise UnsupportedOption for a network that the format cannot express."""
    if trained_config.model_kind == "ngram":
        raise UnsupportedOption(
            f"export needs a model with a network, got {checkpoint.path}, whose model_kind is"
            " ngram; train one with --portable"
        )
    if trained_config.model_file is not None:
        raise UnsupportedOption(
            f"export does not support model_file {trained_config.model_file}, whose code no other"
            " program has; train without it"
        )
    check_network_only(config, checkpoint, trained_config)
    way_out = "train with --portable, or export to another format"
    check_expressible(trained_config, kind.known, config.to, way_out)
    if trained_config.ngram_order and not config.network_only:
        raise UnsupportedOption(
            f"{config.to} holds no counted n-grams, got a model with ngram_order"
            f" {trained_config.ngram_order}; add --network-only to export its network alone"
        )


def _loaded(
    config: ExportConfig, checkpoint: Checkpoint, trained_config: TrainConfig
) -> TrainedModel:
    """Load the model as its files will hold it: in float32, or in the float64 of its training."""
    dtype = "float32" if trained_config.dtype == "bfloat16" else "auto"
    options = SampleConfig(network_only=config.network_only, device="cpu", dtype=dtype)
    return load_trained(options, checkpoint, trained_config)


def _network(config: ExportConfig, trained: TrainedModel, trained_config: TrainConfig) -> Network:
    weights = averaged_weights(trained.checkpoint.state)
    return Network(
        name=trained.checkpoint.run_folder.name, config=trained_config,
        weights={name: array.astype(np.float32) for name, array in weights.items()},
        tokenizer=trained.tokenizer, opens_with_bos=_start(trained) == [BOS],
        first_token=_start(trained)[0],
        program=_program(trained) if config.to == "c" else None,
    )  # fmt: skip


def _program(trained: TrainedModel) -> str | None:
    """Return the program of a scalar run in C, with the trained weights."""
    return trained.engine.program_text() if isinstance(trained.engine, HasProgram) else None


def _start(trained: TrainedModel) -> list[int]:
    """Return the tokens that a sample without a prompt starts from."""
    return [int(token) for token in trained.checkpoint.data["start"]]


def _stream(
    trained: TrainedModel, trained_config: TrainConfig, terminal: Terminal
) -> NDArray[np.integer[Any]]:  # (tokens,)
    """Return the validation text of the run, or one that the network writes if it is not here."""
    try:
        _, dataset = text_of_run(
            trained.checkpoint, trained_config, None, "verifying a text that the network writes"
        )
    except (CheckpointError, CorpusError) as error:
        terminal.note(str(error))
        settings = SamplingSettings(
            temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MOST_TOKENS, seed=0, stop=()
        )
        start = _start(trained)
        drawn = sample_tokens(trained.mixture, start, settings, rows=1)
        return np.array([*start, *(row[0] for row in drawn)])
    return (dataset.val if dataset.val_source == "val" else dataset.train).stream


def _losses(
    config: ExportConfig, checkpoint: Checkpoint, terminal: Terminal
) -> tuple[float | None, float | None]:
    """Return the loss of the network alone and with the counts that the files lack, if any."""
    if not config.network_only:
        return None, None
    from nanochat.commands.evaluate import evaluate

    try:
        scores = evaluate(EvalConfig(checkpoint=str(checkpoint.path), network_only=True))
    except (CheckpointError, CorpusError) as error:
        terminal.note(f"the loss of the network alone is not known: {error}")
        return None, None
    return scores.loss, scores.mixture_loss


def _in_words(result: ExportResult) -> list[str]:
    lines = [] if result.verified is None else result.verified.in_words()
    if result.loss is not None:
        lines.append(
            f"network alone: {result.loss:.4f} nats per token; with its counts:"
            f" {result.mixture_loss:.4f}"
        )
    return [*lines, f"files: {result.folder}"]


# ------------------------------------------------------------------------------------- the folder


def _check_replaceable(
    folder: Path,  # without links
    name: Path,  # as it was given
) -> None:
    """Raise OutputError unless the folder is new, empty, or an earlier export."""
    here = Path(os.path.realpath(os.curdir))
    if folder == here or folder in here.parents:
        raise OutputError(
            f"out {name} must not be or contain the current folder; choose another out"
        )
    if not os.path.lexists(folder):
        return
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / RECORD).is_file()):
        return
    raise OutputError(
        f"out {name} exists and is not an earlier export; remove it or choose another out"
    )


@contextmanager
def _new_folder(
    folder: Path,  # without links
    name: Path,  # as it was given
) -> Iterator[Path]:
    """Yield a new folder for files. After the block it takes the place of `folder`; after an
    exception it is removed, and `folder` is as it was. Raises OutputError."""
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{x}") for x in ("tmp", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.mkdir()
        yield new
        for path in (*new.iterdir(), new):
            sync_folder(path)  # files too
        if os.path.lexists(folder):
            folder.rename(old)
        new.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise output_error(name, error) from error
    finally:
        if os.path.lexists(old) and not os.path.lexists(folder):
            old.rename(folder)
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
