"""`nanochat sample`: text from trained weights, or from the counted bigram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.config.option import config_or_default
from nanochat.config.options import BEST, RUNS_DIR, SampleConfig, TrainConfig
from nanochat.config.unsupported import check_data_dir
from nanochat.data.corpus import data_name
from nanochat.data.counts import transition_counts
from nanochat.data.dataset import Dataset, SplitText, load_dataset, read_text
from nanochat.data.sources.progress import telling
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import (
    CheckpointError,
    KernelError,
    LogitsError,
    TokenizerError,
    UnsupportedOption,
)
from nanochat.output.terminal import SILENT, Terminal, sample_rule
from nanochat.runs.find import run_names
from nanochat.runs.load import (
    check_network_only,
    kept_tokenizer,
    load_trained,
    read_checkpoint,
)
from nanochat.runs.own_text import check_own_text
from nanochat.runs.text import text_of_run
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
    check_network_only(config, checkpoint, trained_config)
    _check_used(config, trained_config)
    trained = load_trained(config, checkpoint, trained_config)
    training = None
    if config.report_copies:
        with telling(terminal.note):
            training = text_of_run(
                checkpoint, trained_config, config.data_dir,
                "restore it, or leave out --report-copies",
            )  # fmt: skip
        if trained_config.init_from is not None:
            terminal.note(f"copies of the text of {trained_config.init_from} are not looked for")
    context = prompt_tokens(
        trained.tokenizer, config.prompt, checkpoint.data["start"], trained.longest_prompt
    )
    bias = phrase_bias(trained.tokenizer, trained.config.style, config.style_weight)
    mixture = trained.adaptive_mixture if config.adapt else trained.mixture
    terminal.note(f"sampling from {checkpoint.path}{_without_counts(config)}")
    try:
        return _write(
            mixture, trained.tokenizer, context, config, terminal, bias, training=training
        )
    except LogitsError as error:
        raise CheckpointError(
            f"{error}: the weights of {checkpoint.path} overflow; use another checkpoint"
        ) from None


def _check_used(config: SampleConfig, trained_config: TrainConfig) -> None:
    """Raise UnsupportedOption for an option that has no effect with this run."""
    if config.data_dir is not None:
        check_data_dir(trained_config.data)
    if config.style_weight != SampleConfig().style_weight and trained_config.style == "classic":
        raise UnsupportedOption(
            "style_weight needs a model trained with style futuristic, got style classic; leave it"
            " out"
        )


def _without_counts(config: SampleConfig) -> str:
    return ", from the network alone, without its counts" if config.network_only else ""


def _sample_counts(config: SampleConfig, terminal: Terminal) -> list[str]:
    """Sample from the add-one transition counts of the training part, without training."""
    trained_config, known, folder = TrainConfig(model_kind="bigram"), None, None
    if config.run is not None or config.checkpoint != BEST or run_names(Path(RUNS_DIR)):
        checkpoint, trained_config, _ = read_checkpoint(config.checkpoint, config.run)
        check_own_text(checkpoint, "train on a text of your own, or sample from the weights")
        known, folder = kept_tokenizer(checkpoint), checkpoint.run_folder
    _check_used(config, trained_config)
    data_dir = config.data_dir or trained_config.data_dir
    with telling(terminal.note):
        text_config = trained_config.changed(data_dir=data_dir)
        text = read_text(text_config, folder)
        dataset = load_dataset(text_config, known, extend=True, folder=folder, text=text)
    tokenizer = dataset.tokenizer
    counts = transition_counts(dataset.train, tokenizer.vocab_size)
    context = prompt_tokens(tokenizer, config.prompt, dataset.start, trained_config.block_size)
    terminal.note(f"sampling from the counted bigram of {data_name(trained_config.data)}")
    training = (text, dataset) if config.report_copies else None
    return _write(CountBigram(counts), tokenizer, context, config, terminal, training=training)


def _write(
    engine: OpensDecoders,
    tokenizer: Tokenizer,
    context: Sequence[int],
    config: SampleConfig,
    terminal: Terminal,
    bias: PhraseBias | None = None,
    *,
    training: tuple[SplitText, Dataset] | None = None,  # to look for copies in
) -> list[str]:
    """Draw the samples and write them to stdout, the first one while it is drawn.

    On a terminal, a rule precedes each of several samples that may have several lines. A sample in
    which copies are marked is written when it is complete.
    """
    has_rules = terminal.is_for_people and config.num_samples > 1 and _writes_lines(tokenizer)
    reports = None
    if config.explain or training is not None:
        from nanochat.commands.sample_reports import SampleReports

        reports = SampleReports(engine, tokenizer, context, config, training)
    streams = training is None
    if has_rules and streams:
        terminal.result(sample_rule(1))
    try:
        texts = generate(
            engine if reports is None else reports.engine, tokenizer, context,
            sampling_settings(config), config.num_samples, bias=bias,
            on_text=(lambda piece: terminal.result(piece, end="")) if streams else None,
            on_tokens=None if reports is None else reports.keep,
        )  # fmt: skip
    except (KeyboardInterrupt, KernelError):
        if terminal.is_for_people:
            terminal.result("")  # ends the line that was begun
        raise
    record = {"samples": texts, **({} if reports is None else reports.record(texts))}
    for number, text in enumerate(texts):
        is_written = number == 0 and streams
        if has_rules and not is_written:
            terminal.result(sample_rule(number + 1))
        shown = text if reports is None else reports.shown(number, text)
        terminal.result("" if is_written else shown)
        if reports is not None:
            reports.write_table(number, terminal)
    if reports is not None:
        reports.write_summary(terminal)
    terminal.json_result(record)
    return texts


def _writes_lines(tokenizer: Tokenizer) -> bool:
    """Return whether the vocabulary can write a line break."""
    try:
        return len(tokenizer.encode("\n")) > 0
    except TokenizerError:
        return False
