"""`nanochat train --show-mask`: the first conversations, with what is learned of them marked."""

from __future__ import annotations

import os
import time
from itertools import pairwise

import numpy as np

from nanochat.commands.resolve import RunText, complete_config, for_conversations, resolve
from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, evaluation_batches
from nanochat.data.dataset import Dataset
from nanochat.data.sources.progress import telling
from nanochat.errors import ConfigError
from nanochat.output.conversation import masked_text
from nanochat.output.terminal import Terminal
from nanochat.system.wording import counted

__all__ = ["show_mask"]

SHOWN = 3  # conversations


def show_mask(config: TrainConfig, terminal: Terminal) -> None:
    """Print the first conversations of the training part as the run of a config would learn them.

    Raises ConfigError for a text without conversations, and the errors of `train`.
    """
    with telling(terminal.note):
        config, dataset = _dataset(config, terminal)
    documents = dataset.train
    if documents.is_target is None:
        raise ConfigError(
            "show_mask needs conversations, got a text of which every token is learned; add"
            " --documents chat if it has some, or leave show_mask out"
        )
    for note in dataset.notes:
        terminal.note(note)
    color = terminal.is_for_people and not os.environ.get("NO_COLOR")
    bounds = (documents.offsets + np.arange(documents.count + 1))[: SHOWN + 1].tolist()
    for number, (first, last) in enumerate(pairwise(bounds), 1):
        tokens = documents.stream[first + 1 : last].tolist()
        is_target = documents.is_target[first : last - 1].tolist()
        terminal.result(f"--- conversation {number} ---")
        terminal.result(masked_text(dataset.tokenizer, tokens, is_target, color), styled=color)
    long = int((documents.lengths + 1 > config.block_size).sum())
    batches = evaluation_batches(documents, batch_size=64, block_size=config.block_size)
    rows = sum(len(batch.lengths) for batch in batches)
    empty = sum(int((batch.targets == IGNORE).all(axis=1).sum()) for batch in batches)
    marked = "in color" if color else "in brackets"
    terminal.note(
        f"learned, {marked}: {documents.targets:,} of {documents.token_count:,} tokens;"
        f" {long:,} of {counted(documents.count, 'conversation')}"
        f" {'is' if long == 1 else 'are'} longer than the context window of"
        f" {counted(config.block_size, 'token')}; {empty} of {counted(rows, 'row')} without a"
        " learned token"
    )
    terminal.json_result(
        {"targets": documents.targets, "tokens": documents.token_count, "longer": long,
         "rows": rows, "rows_without_targets": empty}
    )  # fmt: skip


def _dataset(config: TrainConfig, terminal: Terminal) -> tuple[TrainConfig, Dataset]:
    """Return the config and the dataset of a run, without a time budget."""
    asked = config.given
    given = {name: getattr(config, name) for name in asked - {"time_budget"}}
    config, known = TrainConfig(**given), None
    if config.init_from is not None:
        from nanochat.commands.init_from import initialized_config, read_source

        source = read_source(config, terminal)
        config, known = initialized_config(config, source), source.tokenizer
    text = RunText(
        known=known, extend=config.extend_vocabulary if known is not None else True, folder=None
    )
    config, text = for_conversations(config, asked, text)
    complete, mode_is_given, _, text = complete_config(
        config, None, text, time.perf_counter(), terminal
    )
    resolved, dataset, _ = resolve(complete, mode_is_given, text)
    return resolved, dataset
