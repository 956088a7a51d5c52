"""`nanochat eval`: loss and bits per byte of trained weights on any text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from nanochat.config.option import config_or_default
from nanochat.config.options import EvalConfig, TrainConfig
from nanochat.data.corpus import data_name, load_corpus
from nanochat.data.dataset import load_dataset
from nanochat.data.documents import Documents, encode_documents
from nanochat.data.sources.progress import telling
from nanochat.errors import CheckpointError
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.load import TrainedModel, kept_tokenizer, load_trained, read_checkpoint
from nanochat.system.wording import counted
from nanochat.training.adapting import score_adaptively
from nanochat.training.metrics import format_metric
from nanochat.training.scoring import score_documents

if TYPE_CHECKING:
    from nanochat.output.token_table import TokenTable

__all__ = ["EvalResult", "evaluate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """The score of one checkpoint on one text."""

    loss: float | None  # nats per target, BOS included
    bpb: float | None  # bits per byte of raw text
    targets: int
    bytes: int
    step: int
    data: str
    checkpoint: str
    adaptive: bool  # the model learned from each token after it was scored


def evaluate(
    config: EvalConfig | Mapping[str, Any] | None = None, *, terminal: Terminal = SILENT
) -> EvalResult:
    """Score every token of a text once, in disjoint windows of the model's context.

    Without `data` the text is the validation part of the run. With `adapt` the documents are read
    in order, and the model learns each piece after it was scored. `per_token` names a file for the
    loss of every token. Raises CheckpointError, CorpusError, OutputError, and TokenizerError for a
    character that the model does not know.

    Example:
        >>> import nanochat
        >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=1, num_samples=0))
        >>> nanochat.evaluate(nanochat.EvalConfig(checkpoint=str(run.run))).targets > 0
        True
    """
    config = config_or_default(config, EvalConfig)
    with ExitStack() as stack:
        stack.enter_context(telling(terminal.note))
        table = None
        if config.per_token is not None:
            from nanochat.output.token_table import TokenTable

            table = stack.enter_context(closing(TokenTable(config.per_token)))
        return _evaluate(config, terminal, table)


def _evaluate(config: EvalConfig, terminal: Terminal, table: TokenTable | None) -> EvalResult:
    checkpoint, trained_config, skipped = read_checkpoint(config.checkpoint, config.run)
    for reason in skipped:
        terminal.warn(reason)
    trained = load_trained(config, checkpoint, trained_config)
    documents, name = _documents(config, trained)
    terminal.note(f"scoring {name} with {checkpoint.path}")
    token_bytes = trained.tokenizer.token_bytes
    if config.adapt:
        totals, nats = score_adaptively(
            trained.engine, token_bytes, documents, trained.config, trained.adaptive_counts()
        )
    else:
        totals, nats = score_documents(
            trained.engine, token_bytes, documents, batch_size=config.batch_size,
            block_size=trained.config.block_size, per_token=table is not None,
            by_counts=trained.by_counts(documents),
        )  # fmt: skip
    if totals.loss is not None and not math.isfinite(totals.loss):
        raise CheckpointError(
            f"the loss of {name} is {totals.loss}: the weights of {checkpoint.path} overflow; use"
            " another checkpoint"
        )
    if table is not None:
        table.write(documents, trained.tokenizer, nats)
        terminal.note(f"losses of {counted(len(nats), 'token')}: {table.path}")
    result = EvalResult(
        loss=totals.loss, bpb=totals.bpb, targets=totals.targets, bytes=totals.bytes,
        step=checkpoint.trainer.step, data=name, checkpoint=str(checkpoint.path),
        adaptive=config.adapt,
    )  # fmt: skip
    record = asdict(result)
    # A path with spaces is quoted, as shlex reads it.
    words = (f"{key}={shlex.quote(format_metric(value))}" for key, value in record.items())
    terminal.result(" ".join(words))
    terminal.json_result(record)
    return result


def _documents(config: EvalConfig, trained: TrainedModel) -> tuple[Documents, str]:
    if config.data is not None:
        documents, separator = _unit_of_documents(config, trained.config)
        corpus = load_corpus(
            config.data, documents, config.data_dir, separator=separator,
            text_column=config.text_column or trained.config.text_column,
            require_separator=config.separator is not None,
        )  # fmt: skip
        return encode_documents(trained.tokenizer, corpus.documents), corpus.name
    data_dir = config.data_dir or trained.config.data_dir
    name = data_name(trained.config.data)
    checkpoint = trained.checkpoint
    # With `extend`, a text that has changed is reported as such and not by its new characters.
    dataset = load_dataset(
        replace(trained.config, data_dir=data_dir), kept_tokenizer(checkpoint), extend=True,
        folder=checkpoint.run_folder,
    )  # fmt: skip
    if dataset.split_sha256 != trained.checkpoint.data["split_sha256"]:
        raise CheckpointError(
            f"the text {name} differs from that of {trained.checkpoint.path};"
            " name the text to score with --data"
        )
    if dataset.val_source == "none":
        raise CheckpointError(
            f"{trained.checkpoint.path} has no validation part; name the text to score with --data"
        )
    return dataset.val, f"{name}:{dataset.val_source}"


def _unit_of_documents(config: EvalConfig, run: TrainConfig) -> tuple[str, str | None]:
    """Return the unit of a document and the separator: those given, or those of the run."""
    if config.documents != "auto" or config.separator is not None:
        return config.documents, config.separator
    return run.documents, run.separator
