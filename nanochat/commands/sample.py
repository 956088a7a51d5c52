"""`nanochat sample`: text from trained weights, or from the counted bigram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanochat.config.option import config_or_default
from nanochat.config.options import BEST, RUNS_DIR, SampleConfig, TrainConfig
from nanochat.data.corpus import data_name
from nanochat.data.counts import transition_counts
from nanochat.data.dataset import load_dataset
from nanochat.data.sources.progress import telling
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import CheckpointError, KernelError, LogitsError, TokenizerError
from nanochat.output.terminal import SILENT, Terminal, sample_rule
from nanochat.runs.find import run_names
from nanochat.runs.load import kept_tokenizer, load_trained, read_checkpoint
from nanochat.sampling.count_bigram import CountBigram
from nanochat.sampling.generate import (
    generate,
    phrase_bias,
    prompt_tokens,
    sampling_settings,
)
from nanochat.sampling.sampling import OpensDecoders, PhraseBias

__all__ = ["sample"]


def sample(
    config: SampleConfig | Mapping[str, Any] | None = None, *, terminal: Terminal = SILENT
) -> list[str]:
    """Return texts sampled from a trained model, the prompt included.

    The same checkpoint, options and seed give the same texts. Raises CheckpointError,
    TokenizerError, PromptTooLong, ConfigError.

    Example:
        >>> import nanochat
        >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=3, num_samples=0))
        >>> texts = nanochat.sample(nanochat.SampleConfig(checkpoint=str(run.run), prompt="an"))
        >>> texts[0].startswith("an")
        True
    """
    config = config_or_default(config, SampleConfig)
    if config.from_counts:
        return _sample_counts(config, terminal)
    checkpoint, trained_config, skipped = read_checkpoint(config.checkpoint, config.run)
    for reason in skipped:
        terminal.warn(reason)
    trained = load_trained(config, checkpoint, trained_config)
    context = prompt_tokens(
        trained.tokenizer, config.prompt, checkpoint.data["start"], trained.longest_prompt
    )
    bias = phrase_bias(trained.tokenizer, trained.config.style, config.style_weight)
    terminal.note(f"sampling from {checkpoint.path}")
    try:
        return _write(trained.mixture, trained.tokenizer, context, config, terminal, bias)
    except LogitsError as error:
        raise CheckpointError(
            f"{error}: the weights of {checkpoint.path} overflow; use another checkpoint"
        ) from None


def _sample_counts(config: SampleConfig, terminal: Terminal) -> list[str]:
    """Sample from the add-one transition counts of the training part, without training."""
    trained_config, known, folder = TrainConfig(model_kind="bigram"), None, None
    if config.run is not None or config.checkpoint != BEST or run_names(Path(RUNS_DIR)):
        checkpoint, trained_config, _ = read_checkpoint(config.checkpoint, config.run)
        known, folder = kept_tokenizer(checkpoint), checkpoint.run_folder
    data_dir = config.data_dir or trained_config.data_dir
    with telling(terminal.note):
        dataset = load_dataset(
            replace(trained_config, data_dir=data_dir), known, extend=True, folder=folder
        )
    tokenizer = dataset.tokenizer
    counts = transition_counts(dataset.train, tokenizer.vocab_size)
    context = prompt_tokens(tokenizer, config.prompt, dataset.start, trained_config.block_size)
    terminal.note(f"sampling from the counted bigram of {data_name(trained_config.data)}")
    return _write(CountBigram(counts), tokenizer, context, config, terminal)


def _write(
    engine: OpensDecoders,
    tokenizer: Tokenizer,
    context: Sequence[int],
    config: SampleConfig,
    terminal: Terminal,
    bias: PhraseBias | None = None,
) -> list[str]:
    """Draw the samples and write them to stdout, the first one while it is drawn.

    On a terminal, a rule precedes each of several samples that may have several lines.
    """
    has_rules = terminal.is_for_people and config.num_samples > 1 and _writes_lines(tokenizer)
    if has_rules:
        terminal.result(sample_rule(1))
    try:
        texts = generate(
            engine, tokenizer, context, sampling_settings(config), config.num_samples, bias=bias,
            on_text=lambda piece: terminal.result(piece, end=""),
        )  # fmt: skip
    except (KeyboardInterrupt, KernelError):
        if terminal.is_for_people:
            terminal.result("")  # ends the line that was begun
        raise
    terminal.result("")
    for number, text in enumerate(texts[1:], start=2):
        if has_rules:
            terminal.result(sample_rule(number))
        terminal.result(text)
    terminal.json_result({"samples": texts})
    return texts


def _writes_lines(tokenizer: Tokenizer) -> bool:
    """Return whether the vocabulary can write a line break."""
    try:
        return len(tokenizer.encode("\n")) > 0
    except TokenizerError:
        return False
