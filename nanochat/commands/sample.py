"""`nanochat sample`: text from trained weights, or from the counted bigram."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nanochat.config.options import RUNS_DIR, SampleConfig, TrainConfig
from nanochat.data.corpus import data_name
from nanochat.data.counts import transition_counts
from nanochat.data.dataset import load_dataset
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.load import load_trained, read_checkpoint
from nanochat.sampling.count_bigram import CountBigram
from nanochat.sampling.generate import (
    generate,
    phrase_bias,
    prompt_tokens,
    sampling_settings,
)

__all__ = ["sample"]


def sample(config: SampleConfig | None = None, *, terminal: Terminal = SILENT) -> list[str]:
    """Return texts sampled from a trained model, the prompt included.

    The same checkpoint, options and seed give the same texts. Raises CheckpointError,
    TokenizerError, PromptTooLong, ConfigError.

    >>> import nanochat
    >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=3, num_samples=0))
    >>> texts = nanochat.sample(nanochat.SampleConfig(checkpoint=str(run.run), prompt="an"))
    >>> texts[0].startswith("an")
    True
    """
    config = config or SampleConfig()
    if config.baseline == "counts":
        return _sample_counts(config, terminal)
    checkpoint, trained_config, skipped = read_checkpoint(config.checkpoint)
    for reason in skipped:
        terminal.warn(reason)
    trained = load_trained(config, checkpoint, trained_config)
    context = prompt_tokens(
        trained.tokenizer, config.prompt, checkpoint.data["start"], trained.config.block_size
    )
    bias = phrase_bias(trained.tokenizer, trained.config.style, config.style_weight)
    terminal.note(f"sampling from {checkpoint.path}")
    settings = sampling_settings(config)
    stream = config.num_samples == 1
    texts = generate(
        trained.engine, trained.tokenizer, context, settings, config.num_samples, bias=bias,
        on_text=(lambda piece: terminal.result(piece, end="")) if stream else None,
    )  # fmt: skip
    _show(texts, terminal, streamed=stream)
    return texts


def _sample_counts(config: SampleConfig, terminal: Terminal) -> list[str]:
    """Sample from the add-one transition counts of the training part, without training."""
    trained_config, folder = TrainConfig(model_kind="bigram"), None
    if config.checkpoint is not None or any(Path(RUNS_DIR).glob("*")):
        checkpoint, trained_config, _ = read_checkpoint(config.checkpoint)
        folder = checkpoint.run_folder
    data_dir = config.data_dir or trained_config.data_dir
    dataset = load_dataset(replace(trained_config, data_dir=data_dir), folder)
    tokenizer = dataset.tokenizer
    counts = transition_counts(dataset.train, tokenizer.vocab_size)
    bigram = CountBigram(counts)
    context = prompt_tokens(tokenizer, config.prompt, dataset.start, trained_config.block_size)
    terminal.note(f"sampling from the counted bigram of {data_name(trained_config.data)}")
    settings = sampling_settings(config)
    texts = generate(bigram, tokenizer, context, settings, config.num_samples)
    _show(texts, terminal, streamed=False)
    return texts


def _show(texts: list[str], terminal: Terminal, *, streamed: bool) -> None:
    if streamed:
        terminal.result("")
    else:
        for text in texts:
            terminal.result(text)
    terminal.json_result({"samples": texts})
