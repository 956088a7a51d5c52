"""Pictures: the loss curve of a run, the variants of an ablation. Only this imports matplotlib."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat.training.durable import output_error

__all__ = ["plot_ablation", "plot_losses"]

_TRAIN, _SMOOTH, _VAL = "#b8c4d6", "#1f4e8c", "#d1495b"
_WINDOW = 0.04  # of the run, for the smoothed curve
_LABEL = 60  # characters


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # A title may name a corpus in letters that the font lacks; it is drawn with boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(path, format="png")
    except OSError as error:
        raise output_error(path, error) from error


def plot_losses(metrics: Path, picture: Path, title: str) -> None:
    """The training loss of each step, its running mean, and each evaluation."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [(r["step"], r["loss"]) for r in records if r["kind"] == "step"]
    evals = [(r["step"], r["val_loss"]) for r in records if r["kind"] == "eval"]
    # The log spells a loss that is not finite as text.
    evals = [(step, float(loss)) for step, loss in evals if loss is not None]
    figure, axes = _figure(7, 4)
    if steps:
        x, y = zip(*steps, strict=True)
        axes.plot(x, y, color=_TRAIN, linewidth=0.8, label="training loss, each step")
        axes.plot(x, _running_mean(y, max(1, int(len(y) * _WINDOW))), color=_SMOOTH, linewidth=1.6,
                  label="training loss, running mean")  # fmt: skip
    if evals:
        x, y = zip(*evals, strict=True)
        axes.plot(x, y, color=_VAL, marker="o", markersize=4, linewidth=1.2,
                  label=f"validation loss (last {y[-1]:.3f})")  # fmt: skip
    axes.set(xlabel="step", ylabel="loss, nats per token")
    axes.set_title(title, parse_math=False)
    if steps or evals:
        axes.legend(frameon=False)
    _save(figure, picture)


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    total, means = 0.0, []
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        means.append(total / min(i + 1, window))
    return means


def _shortened(label: str) -> str:
    """A label that leaves room for the plot beside it."""
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def plot_ablation(
    labels: Sequence[str],
    means: Sequence[float],
    half_widths: Sequence[float],  # of the 95 % interval
    points: Sequence[Sequence[float]],  # one a seed
    picture: Path,
    title: str,
) -> None:
    """One row a variant: the seeds, their mean and its interval."""
    figure, axes = _figure(7, 1.2 + 0.45 * len(labels))
    rows = range(len(labels))
    for row, values in zip(rows, points, strict=True):
        axes.plot(values, [row] * len(values), "o", color=_TRAIN, markersize=5)
    axes.errorbar(means, list(rows), xerr=list(half_widths), fmt="o", color=_SMOOTH, capsize=4)
    axes.set_yticks(list(rows), [_shortened(label) for label in labels], parse_math=False)
    axes.invert_yaxis()
    axes.set(title=title, xlabel="validation loss, nats per token (mean, 95 % interval)")
    _save(figure, picture)
