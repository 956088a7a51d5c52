"""The picture of an ablation, one row per variant. The only module that imports matplotlib."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.system.cache import writable_cache
from nanochat.system.durable import output_error

__all__ = ["plot_ablation"]

_SEED, _MEAN = "#b8c4d6", "#1f4e8c"
_LABEL = 60  # characters


@contextmanager
def _cached_fonts() -> Iterator[None]:
    """Import matplotlib with its list of fonts in the cache.

    It logs a warning where it must take a temporary folder, and one while it makes the list.
    """
    folder, name = writable_cache("matplotlib"), "MPLCONFIGDIR"
    sets = folder is not None and name not in os.environ
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    if sets:
        os.environ[name] = str(folder)
    try:
        yield
    finally:
        logger.setLevel(level)
        if sets:
            del os.environ[name]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    with _cached_fonts():
        from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # A title may name a text in letters that the font lacks; they appear as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(path, format="png")
    except OSError as error:
        raise output_error(path, error) from error


def _shortened(label: str) -> str:
    """Return a label that leaves room for the plot."""
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def plot_ablation(
    labels: Sequence[str],
    means: Sequence[float],
    half_widths: Sequence[float],  # of the 95 % interval
    points: Sequence[Sequence[float]],  # one per seed
    picture: Path,
    title: str,
) -> None:
    """Plot one row per variant: the seeds, their mean and its interval."""
    figure, axes = _figure(7, 1.2 + 0.45 * len(labels))
    rows = range(len(labels))
    for row, values in zip(rows, points, strict=True):
        axes.plot(values, [row] * len(values), "o", color=_SEED, markersize=5)
    axes.errorbar(means, list(rows), xerr=list(half_widths), fmt="o", color=_MEAN, capsize=4)
    axes.set_yticks(list(rows), [_shortened(label) for label in labels], parse_math=False)
    axes.invert_yaxis()
    axes.set(title=title, xlabel="validation loss, nats per token (mean, 95 % interval)")
    _save(figure, picture)
