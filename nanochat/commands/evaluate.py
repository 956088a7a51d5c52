"""`nanochat eval`: loss and bits per byte of trained weights on any text."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace

from nanochat.config.options import EvalConfig
from nanochat.data.batches import evaluation_batches
from nanochat.data.corpus import load_corpus
from nanochat.data.dataset import load_dataset
from nanochat.data.documents import Documents, encode_documents
from nanochat.data.registry import REGISTRY
from nanochat.errors import CheckpointError
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.load import TrainedModel, kept_tokenizer, load_trained, read_checkpoint
from nanochat.training.metrics import LossTotals, format_metric

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


def evaluate(config: EvalConfig | None = None, *, terminal: Terminal = SILENT) -> EvalResult:
    """Score every token of a text once, in disjoint windows of the model's context.

    Without `data` the text is the validation part of the run. Raises CheckpointError, CorpusError,
    and TokenizerError for a character that the model does not know.

    >>> import nanochat
    >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=1, num_samples=0))
    >>> nanochat.evaluate(nanochat.EvalConfig(checkpoint=str(run.run))).targets > 0
    True
    """
    config = config or EvalConfig()
    checkpoint, trained_config, skipped = read_checkpoint(config.checkpoint, config.run)
    for reason in skipped:
        terminal.warn(reason)
    trained = load_trained(config, checkpoint, trained_config)
    documents, name = _documents(config, trained)
    batches = evaluation_batches(
        documents, batch_size=config.batch_size, block_size=trained.config.block_size
    )
    terminal.note(f"scoring {name} with {checkpoint.path}")
    totals = LossTotals(trained.tokenizer.token_bytes)
    for batch in batches:
        totals.add(trained.engine.token_losses(batch), batch.targets)
    result = EvalResult(
        loss=totals.loss, bpb=totals.bpb, targets=totals.targets, bytes=totals.bytes,
        step=checkpoint.trainer.step, data=name, checkpoint=str(checkpoint.path),
    )  # fmt: skip
    record = asdict(result)
    # A path with spaces is quoted, as shlex reads it.
    words = (f"{key}={shlex.quote(format_metric(value))}" for key, value in record.items())
    terminal.result(" ".join(words))
    terminal.json_result(record)
    return result


def _documents(config: EvalConfig, trained: TrainedModel) -> tuple[Documents, str]:
    if config.data is not None:
        kind = _kind_of_documents(config, trained)
        corpus = load_corpus(config.data, kind, config.data_dir)
        return encode_documents(trained.tokenizer, corpus.documents), config.data
    data_dir = config.data_dir or trained.config.data_dir
    # With `extend`, a text that has changed is told as such and not by its new characters.
    dataset = load_dataset(
        replace(trained.config, data_dir=data_dir), kept_tokenizer(trained.checkpoint), extend=True
    )
    if dataset.split_sha256 != trained.checkpoint.data["split_sha256"]:
        raise CheckpointError(
            f"the text {trained.config.data} differs from that of {trained.checkpoint.path};"
            " name the text to score with --data"
        )
    if dataset.val_source == "none":
        raise CheckpointError(
            f"{trained.checkpoint.path} has no validation part; name the text to score with --data"
        )
    return dataset.val, f"{trained.config.data}:{dataset.val_source}"


def _kind_of_documents(config: EvalConfig, trained: TrainedModel) -> str:
    """Return what one document of the text is: the given option, or as in the run's text."""
    if config.documents != "auto":
        return config.documents
    run = trained.config
    entry = REGISTRY.get(run.data)
    return entry.documents if entry and run.documents == "auto" else run.documents
