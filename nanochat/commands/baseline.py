"""The counting baseline next to a run: counted while the model trains, told at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.config.options import TrainConfig
from nanochat.data.dataset import Dataset
from nanochat.errors import NanochatError
from nanochat.ngram.baseline import Baseline, baseline_of, count_baseline
from nanochat.output.terminal import Terminal
from nanochat.system import processes
from nanochat.system.background import Background
from nanochat.system.wording import counted

if TYPE_CHECKING:
    from nanochat.training.deadline import Deadline

__all__ = ["Counting", "baseline_metrics", "comparison", "counted_baseline", "start_baseline"]

Counting = Background[Baseline | NanochatError]


def start_baseline(config: TrainConfig, dataset: Dataset) -> Counting | None:
    """Start to count on another thread, in one process, if there are targets to score.

    All of the validation text is scored, as the model is at the end of a run. An error of the count
    is its result: it must not end the run.
    """

    def count() -> Baseline | NanochatError:
        parts, tokenizer = (dataset.train, dataset.val), dataset.tokenizer
        by_counts = dataset.by_counts
        try:
            if by_counts is not None and by_counts.is_best:
                return baseline_of(by_counts.model, *parts, tokenizer.token_bytes)
            return count_baseline(
                *parts, tokenizer.vocab_size, tokenizer.token_bytes, seed=config.seed
            )
        except NanochatError as error:
            return error

    if not config.baseline or dataset.val.count == 0 or processes.rank() != 0:
        return None
    return Background(count, "baseline")


def counted_baseline(
    counting: Counting | None, terminal: Terminal, deadline: Deadline | None
) -> Baseline | None:
    """Wait for the baseline, but not beyond a deadline; warn if it could not be counted."""
    if counting is None:
        return None
    try:
        baseline = counting.result(None if deadline is None else max(deadline.left_s(), 0.0) / 2)
    except TimeoutError:
        terminal.note("no counting baseline: the text is too long to count within the time budget")
        return None
    if isinstance(baseline, NanochatError):
        terminal.warn(f"no counting baseline: {baseline}")
        return None
    return baseline


def baseline_metrics(baseline: Baseline | None) -> dict[str, Any]:
    """Return what result.json holds of the baseline; without one, nothing."""
    if baseline is None:
        return {}
    return {
        "baseline_order": baseline.order,
        "baseline_loss": baseline.loss,
        "baseline_bpb": baseline.bpb,
    }


def comparison(
    baseline: Baseline,
    loss: float | None,
    bpb: float | None,
    *,
    overfits: TrainConfig | None = None,
) -> str:
    """Return one line that compares the model's validation with counting.

    A model that is worse gets a second line with what to try. overfits: the config of a run whose
    best step was not the last one, so more steps would not help.
    """
    if baseline.bpb is not None and bpb is not None:
        model, counting, unit = bpb, baseline.bpb, "bits per byte"
    elif baseline.loss is not None and loss is not None:
        model, counting, unit = loss, baseline.loss, "nats per token"
    else:
        return "nothing to compare with counting: validation has no targets"
    part = f" of {counted(baseline.counted, 'token')}" if baseline.counted else ""
    line = f"validation {model:.2f} {unit} (counting{part}, order {baseline.order}: {counting:.2f})"
    if model <= counting:
        return line
    advice = "more --steps or a longer --time-budget, or a larger --preset"
    if overfits is not None:
        advice = _against_overfitting(overfits)
    return (
        f"{line}\nthe model is worse than counting by {model - counting:.2f} {unit}; try {advice}"
    )


def _against_overfitting(config: TrainConfig) -> str:
    """Return what to try, without what the engine refuses or the run already has."""
    ways = ["more text"]
    if config.model_kind == "mini-gpt":
        ways += ["a smaller --preset"] if config.preset != "pico" else []
        ways += ["--dropout 0.2"] if config.mode == "tensor" and config.dropout < 0.2 else []
    ways.append("a larger --weight-decay")
    return f"{', '.join(ways[:-1])} or {ways[-1]}"
