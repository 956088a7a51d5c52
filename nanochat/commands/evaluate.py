"""`nanochat eval`: loss and bits per byte of trained weights on any text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import config_or_default
from nanochat.config.options import EvalConfig, TrainConfig
from nanochat.config.unsupported import check_data_dir
from nanochat.data.conversations import Conversations, encode_conversations
from nanochat.data.corpus import data_name, load_corpus
from nanochat.data.dataset import CHAT, Dataset, SplitText
from nanochat.data.documents import encode_documents
from nanochat.data.sources.progress import telling
from nanochat.errors import CheckpointError, UnsupportedOption
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.load import (
    TrainedModel,
    check_network_only,
    load_trained,
    read_checkpoint,
)
from nanochat.runs.text import ScoredText, text_of_run
from nanochat.sampling.mixed import NetworkAlone
from nanochat.sampling.replies import check_chats
from nanochat.system.threads import thread_count
from nanochat.system.wording import counted
from nanochat.training.adapting import score_adaptively
from nanochat.training.metrics import LossTotals, format_metric
from nanochat.training.scoring import score_documents

if TYPE_CHECKING:
    from nanochat.commands.yardsticks import BaselineScore
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
    # With network_only: the score of the mixture; loss and bpb are those of the network alone.
    mixture_loss: float | None = None
    mixture_bpb: float | None = None
    # With the option baselines: the scores of the model and of all baselines on the same bytes.
    baselines: tuple[BaselineScore, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `nanochat eval --json`. What was not asked for has no key."""
        optional = ("mixture_loss", "mixture_bpb", "baselines")
        return {k: v for k, v in asdict(self).items() if not (k in optional and v is None)}


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
    check_network_only(config, checkpoint, trained_config)
    trained = load_trained(config, checkpoint, trained_config)
    text, training = _texts(config, trained, trained_config)
    if config.baselines and text.documents.is_target is not None:
        raise UnsupportedOption(
            f"baselines does not support conversations, got {text.name}: compressors score whole"
            " texts, not the replies alone; leave baselines out"
        )
    terminal.note(f"scoring {text.name} with {checkpoint.path}")
    if config.network_only:
        terminal.note("with the network alone, without its counts")
    totals, nats = _score(config, trained, text, per_token=table is not None)
    mixture = totals
    if config.network_only:
        mixture, _ = _score(config, trained, text, per_token=False, mixture=True)
    if table is not None:
        table.write(text.documents, trained.tokenizer, nats)
        terminal.note(f"losses of {counted(text.documents.targets, 'token')}: {table.path}")
    scores, table_of_scores = None, ""
    if training is not None:
        from nanochat.commands.yardsticks import baseline_scores, baselines_text

        terminal.note("counting and compressing the training text")
        models = [("network" if config.network_only else "model", totals.nats)]
        models += [("mixture", mixture.nats)] if config.network_only else []
        scores = tuple(
            baseline_scores(
                models, text, training, adaptive=config.adapt, style=trained_config.style,
                seed=trained_config.seed,
                threads=thread_count(config.threads),
            )
        )  # fmt: skip
        table_of_scores = baselines_text(scores, text, training[0].split.train)
    result = EvalResult(
        loss=totals.loss, bpb=totals.bpb, targets=totals.targets, bytes=totals.bytes,
        step=checkpoint.trainer.step, data=text.name, checkpoint=str(checkpoint.path),
        adaptive=config.adapt,
        mixture_loss=mixture.loss if config.network_only else None,
        mixture_bpb=mixture.bpb if config.network_only else None,
        baselines=scores,
    )  # fmt: skip
    record = result.to_dict()
    # A path with spaces is quoted, as shlex reads it.
    figures = ((key, value) for key, value in record.items() if key != "baselines")
    terminal.result(" ".join(f"{k}={shlex.quote(format_metric(v))}" for k, v in figures))
    if scores is not None:
        terminal.result(table_of_scores)
    terminal.json_result(record)
    return result


def _score(
    config: EvalConfig,
    trained: TrainedModel,
    text: ScoredText,
    *,
    per_token: bool,
    mixture: bool = False,  # score with the counts even under network_only
) -> tuple[LossTotals, NDArray[np.float64]]:
    """Return the totals and, if asked for, the nats of each token. Raises CheckpointError."""
    alone = config.network_only and not mixture
    token_bytes = trained.tokenizer.token_bytes
    if config.adapt:
        totals, nats = score_adaptively(
            trained.engine, token_bytes, text.documents, trained.config, trained.adaptive_counts()
        )
    else:
        totals, nats = score_documents(
            NetworkAlone(trained.engine) if alone else trained.engine, token_bytes, text.documents,
            batch_size=config.batch_size, block_size=trained.config.block_size,
            per_token=per_token, by_counts=trained.by_counts(text.documents),
        )  # fmt: skip
    if totals.loss is not None and not math.isfinite(totals.loss):
        raise CheckpointError(
            f"the loss of {text.name} is {totals.loss}: the weights of {trained.checkpoint.path}"
            " overflow; use another checkpoint"
        )
    return totals, nats


def _texts(
    config: EvalConfig, trained: TrainedModel, trained_config: TrainConfig
) -> tuple[ScoredText, tuple[SplitText, Dataset] | None]:
    """Return the text to score, and for the baselines the text of the run."""
    checkpoint = trained.checkpoint
    training = None
    if config.data is None or config.baselines:
        way_out = "name the text to score with --data"
        if config.data is not None:
            way_out = "restore it, or leave out --baselines"
        if config.data_dir is not None and config.data is None:
            check_data_dir(trained_config.data)
        training = text_of_run(checkpoint, trained_config, config.data_dir, way_out)
    if config.data is not None:
        return _given_text(config, trained), training
    assert training is not None
    split, dataset = training
    if dataset.val_source == "none":
        raise CheckpointError(
            f"{checkpoint.path} has no validation part; name the text to score with --data"
        )
    scored = ScoredText(
        name=f"{data_name(trained_config.data)}:{dataset.val_source}", documents=dataset.val,
        texts=split.split.val if config.baselines else None, unit=split.unit,
        separator=split.separator, is_training=dataset.val_source == "train",
    )  # fmt: skip
    return scored, training if config.baselines else None


def _given_text(config: EvalConfig, trained: TrainedModel) -> ScoredText:
    assert config.data is not None
    documents, separator = _unit_of_documents(config, trained.config)
    corpus = load_corpus(
        config.data, documents, config.data_dir, separator=separator,
        text_column=config.text_column or trained.config.text_column,
        require_separator=config.separator is not None,
    )  # fmt: skip
    if corpus.kind == CHAT:
        tokenizer = check_chats(trained.tokenizer, str(trained.checkpoint.path))
        conversations = Conversations.of(corpus.documents)
        scored = encode_conversations(tokenizer, conversations, corpus.name)
    else:
        scored = encode_documents(trained.tokenizer, corpus.documents, corpus.name)
    return ScoredText(
        name=corpus.name,
        documents=scored,
        texts=corpus.documents if config.baselines else None, unit=corpus.kind,
        separator=corpus.separator,
    )  # fmt: skip


def _unit_of_documents(config: EvalConfig, run: TrainConfig) -> tuple[str, str | None]:
    """Return the unit of a document and the separator: those given, or those of the run."""
    if config.documents != "auto" or config.separator is not None:
        return config.documents, config.separator
    return run.documents, run.separator
