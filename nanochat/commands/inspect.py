"""`nanochat inspect`: every number of a trained model on a text, printed and as one page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.config.option import config_or_default
from nanochat.config.options import InspectConfig, TrainConfig
from nanochat.data.conversations import Turn, as_text
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.errors import (
    CheckpointError,
    ConfigError,
    OutputError,
    PromptTooLong,
    TokenizerError,
    UnsupportedOption,
)
from nanochat.inspection.comparison import Comparison, compared, with_program
from nanochat.inspection.facts import arrays_of_attention, facts
from nanochat.inspection.page import page_text
from nanochat.inspection.parameter_history import history_facts
from nanochat.inspection.trace import Trace, traced_text
from nanochat.output.inspection import view_text
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.history import history_of
from nanochat.runs.load import TrainedModel, config_of, load_trained, read_checkpoint
from nanochat.sampling.generate import prompt_tokens, stream
from nanochat.sampling.replies import reply_prompt
from nanochat.sampling.sampling import SamplingSettings
from nanochat.system.durable import replace_durably
from nanochat.training.average import averaged_weights
from nanochat.training.history import History

__all__ = ["InspectResult", "inspect"]

PAGE = "inspect.html"
DEFAULT_TOKENS = 24  # of the text that the model writes
_TEMPERATURE, _TRIES = 0.8, 16
_GREETING: Turn = ("user", "Hi")


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectResult:
    """The trace of one text, the page that shows it, and the comparison that was asked for."""

    trace: Trace
    page: Path
    comparison: Comparison | None


def inspect(
    config: InspectConfig | Mapping[str, Any] | None = None, *, terminal: Terminal = SILENT
) -> InspectResult:
    """Trace a text through a model, print the views of `view`, and write the page.

    Raises CheckpointError, CorpusError, TokenizerError, PromptTooLong, OutputError, and
    UnsupportedOption for a model without a network.

    Example:
        >>> import nanochat
        >>> run = nanochat.train(nanochat.TrainConfig(mode="scalar", steps=3, num_samples=0))
        >>> result = nanochat.inspect(nanochat.InspectConfig(run=str(run.run), text="anna"))
        >>> result.page.name, len(result.trace.tokens)
        ('inspect.html', 5)
    """
    config = config_or_default(config, InspectConfig)
    checkpoint, trained_config, skipped = read_checkpoint(config.checkpoint, config.run)
    for reason in skipped:
        terminal.warn(reason)
    trained = _loaded(config, checkpoint, trained_config)
    text = config.text
    if text is None:
        text = _own_text(trained)
        terminal.note("no --text, so this is a text that the model wrote")
    trace = _trace(trained, text)
    against = _comparison(config, checkpoint, text, trace)
    comparison = against[0] if against else None
    whole = _numbers(trace) <= config.max_numbers
    found = facts(
        trace, run=checkpoint.run_folder.name, step=checkpoint.trainer.step, arrays=whole,
        attention=whole or _attention_numbers(trace) <= config.max_numbers, neurons=whole,
    )  # fmt: skip
    history = _history(checkpoint, terminal)
    if history is not None:
        found["history"] = history_facts(history, config.max_numbers, _numbers(trace) * whole)
    if not whole:
        found["left_out"] |= _left_out(trace, config.max_numbers)
    found["against"] = _rows(*against) if against else None
    page = Path(config.out) if config.out is not None else checkpoint.run_folder / PAGE
    _write(page, found)
    color = terminal.is_for_people and not os.environ.get("NO_COLOR")
    for number, name in enumerate(config.view):
        text_of_view = view_text(name, trace, found, comparison, history, color=color)
        terminal.result(f"\n{text_of_view}" if number else text_of_view, styled=color)
    terminal.note(f"page: {page}")
    terminal.json_result(_record(trace, page, found))
    return InspectResult(trace=trace, page=page, comparison=comparison)


def _loaded(
    config: InspectConfig, checkpoint: Checkpoint, trained_config: TrainConfig
) -> TrainedModel:
    if trained_config.model_kind == "ngram":
        raise UnsupportedOption(
            f"inspect needs a model with a network, got {checkpoint.path}, whose model_kind is"
            " ngram"
        )
    return load_trained(config, checkpoint, trained_config)


def _history(checkpoint: Checkpoint, terminal: Terminal) -> History | None:
    """Return what the run has recorded, if anything; None, with a warning, of a damaged file."""
    try:
        history = history_of(checkpoint)
    except CheckpointError as error:
        terminal.warn(f"{error}; nothing of it is shown")
        return None
    return history if history is not None and len(history.chosen.steps) else None


def _trace(trained: TrainedModel, text: str) -> Trace:
    weights = averaged_weights(trained.checkpoint.state)
    return Trace(trained, weights, traced_text(trained, text), {})


def _own_text(trained: TrainedModel) -> str:
    """Return a text that the model writes; of a model of conversations, its reply to a greeting.

    Raises ConfigError if it writes none.
    """
    tokenizer, longest = trained.tokenizer, trained.config.block_size - 1
    is_chat = isinstance(tokenizer, ChatTokenizer)
    try:
        if isinstance(tokenizer, ChatTokenizer):
            context = reply_prompt(tokenizer, [_GREETING], longest, DEFAULT_TOKENS).tokens
        else:
            start = trained.checkpoint.data["start"]
            context = prompt_tokens(tokenizer, "", start, trained.longest_prompt)
    except (TokenizerError, PromptTooLong) as error:  # of the greeting
        raise ConfigError(f"text must be given; use --text: {error}") from None
    room = min(DEFAULT_TOKENS, longest - len(context))
    for seed in range(_TRIES if room > 0 else 0):
        settings = SamplingSettings(
            temperature=_TEMPERATURE, top_k=0, top_p=1.0, max_new_tokens=room, seed=seed, stop=()
        )
        start_text = "" if is_chat else None
        text = "".join(stream(trained.mixture, tokenizer, context, settings, start=start_text))
        if text.strip():
            answer = ("assistant", text.strip())
            return as_text([_GREETING, answer]) if is_chat else text.lstrip("\n")
    raise ConfigError("text must be given: the model writes none; use --text")


def _comparison(
    config: InspectConfig, checkpoint: Checkpoint, text: str, here: Trace
) -> tuple[Comparison, str] | None:
    """Return the comparison that the options ask for, and what it is with."""
    if not config.compares:
        return None
    found, there = checkpoint, config_of(checkpoint)
    if config.against is not None:
        found, there, _ = read_checkpoint(run=config.against)
    options = InspectConfig(
        mode=config.against_mode, dtype=config.against_dtype, threads=config.threads,
        model_file=config.against_model_file or (
            config.model_file if there.model_file is not None else None
        ),
    )  # fmt: skip
    if config.against_numerics != "auto":
        if "tensor" in (there.mode, config.against_mode):
            raise UnsupportedOption(
                "against_numerics needs a run of mode scalar, got mode tensor; leave it out"
            )
        there = there.changed(numerics=config.against_numerics)
    loaded = _loaded(options, found, there)
    other = _trace(loaded, text)
    if other.tokens.tolist() != here.tokens.tolist():
        raise UnsupportedOption(
            f"against {found.path} splits the text into other tokens; compare runs of one tokenizer"
        )
    name = f"{found.run_folder.name} step {found.trainer.step}, {other.config.mode}"
    if config.against_numerics != "auto":
        what = f"{name}, {other.config.dtype}, {config.against_numerics} numerics"
        return with_program(here, loaded), what
    return compared(here, other), f"{name}, {other.config.dtype}"


def _numbers(trace: Trace) -> int:
    """Return how many numbers the page has of every array and weight, with their gradients."""
    arrays = sum(array.size for array in trace.values())
    return 2 * (arrays + sum(weight.size for weight in trace.weights.values()))


def _left_out(trace: Trace, most: int) -> dict[str, str]:
    reason = (
        f"the model has {_numbers(trace):,} numbers on this text, and max_numbers is {most:,};"
        " give a shorter text or --max-numbers"
    )
    left_out = dict.fromkeys(("forward", "gradients", "neurons"), reason)
    if (numbers := _attention_numbers(trace)) > most:
        left_out["attention"] = (
            f"attention has {numbers:,} numbers on this text, and max_numbers is {most:,}; give a"
            " shorter text or --max-numbers"
        )
    return left_out


def _attention_numbers(trace: Trace) -> int:
    return sum(array.size for array in arrays_of_attention(trace).values())


def _rows(comparison: Comparison, there: str) -> dict[str, Any]:
    first = comparison.first
    rows = comparison.differences
    return {
        "what": there, "rows": [asdict(each) for each in rows],
        "first": None if first is None else rows.index(first),
    }  # fmt: skip


def _write(page: Path, found: Mapping[str, Any]) -> None:
    """Write the page. Raises OutputError."""
    target = Path(os.path.realpath(page))  # a link stays a link
    if target.exists() and not target.is_file():
        raise OutputError(f"out {page} is not a file; name a file")
    replace_durably(target, page_text(found).encode("utf-8"))


def _record(trace: Trace, page: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of `nanochat inspect --json`."""
    keys = ("run", "step", "engine", "dtype", "mean", "tokens", "targets", "losses", "likeliest")
    record = {key: found[key] for key in (*keys, "importance", "merges", "left_out", "against")}
    lens = found["lens"] and {key: found["lens"][key] for key in ("stages", "losses")}
    shapes = {name: list(array.shape) for name, array in trace.items()}
    return {**record, "pieces": trace.pieces, "lens": lens, "shapes": shapes, "page": str(page)}
