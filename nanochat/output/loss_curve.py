"""The loss curve of a run, written as SVG text.

Importing matplotlib takes longer than training a small model. Owns the picture's scales and marks;
the ablation's picture is in ablation_plot.py.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import CheckpointError, ConfigError
from nanochat.system.durable import output_error, replace_durably
from nanochat.system.plain_files import plain_log

__all__ = ["LossCurve", "write_loss_curve"]

_Point = tuple[float, float]  # (step, loss), and in the picture (x, y) in pixels

_Series = NDArray[np.float64]  # (2, points): steps and losses

_Entry = tuple[str, str, str]  # of the legend: color, label, style of the line

_TRAIN, _SMOOTH, _VAL, _COUNTING = "#b8c4d6", "#1f4e8c", "#d1495b", "#3d3d3d"
_DOTTED = 'stroke-width="1.5" stroke-dasharray="2 4"'
_FEW_POINTS = 30  # of a line; each of them is drawn as a dot too
_FEW_EVALS = 3  # each of them is drawn with its value
_WIDTH, _HEIGHT = 840, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 796, 44, 428  # of the axes
_WINDOW = 0.04  # of the run, for the running mean
_COLUMNS = _RIGHT - _LEFT  # of pixels between the axes

# The line of a step as JsonlWriter writes it. Reading it this way takes a quarter of the time of
# json.loads, which a long run of short steps would notice.
_STEP_START = b'{"kind":"step",'
_NUMBER = rb"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|nan|-?inf"
_STEP = re.compile(
    b"^" + re.escape(_STEP_START) + rb'"step":([0-9]{1,15}),"loss":"?(' + _NUMBER + rb')[",}]', re.M
)
_PIECE = 1 << 22  # bytes of a log that are read at a time
_MOST_LOSS = 1e150  # of a point in the picture, whose scale is computed in floats


def write_loss_curve(
    metrics: Path, picture: Path, title: str, *, counting_loss: float | None = None
) -> None:
    """Plot the training loss of each step, its running mean, and each evaluation.

    counting_loss: nats per token of the counted n-grams, drawn as a dotted line. Leaves out figures
    that are not finite. Raises OutputError, and CheckpointError for a log that cannot be read.
    """
    steps, evals = _read(metrics)
    curves = _Curves(_thinned(steps), _smoothed(steps), _points(evals), counting_loss)
    replace_durably(picture, ("\n".join(_svg(curves, title)) + "\n").encode())


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The picture of a run's losses. Notebooks show it."""

    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture to a file that ends in .svg and return its path.

        Raises ConfigError for another ending, OutputError if the file cannot be written.
        """
        target = Path(path)
        if target.suffix.lower() != ".svg":
            raise ConfigError(f"the loss curve is an SVG; path must end in .svg, got {target}")
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            temporary.write_text(self.svg, encoding="utf-8")
            os.replace(temporary, target)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise output_error(target, error) from error
        return target


class _Curves(NamedTuple):
    """What is drawn, in steps and nats per token."""

    steps: Sequence[_Point]
    means: Sequence[_Point]
    evals: Sequence[_Point]
    counting_loss: float | None

    @property
    def best(self) -> _Point | None:
        """The evaluation with the lowest loss, the first of equal ones."""
        return min(self.evals, key=lambda point: point[1], default=None)

    @property
    def last_step(self) -> float:
        """The last step taken, where the axis ends; at least 1."""
        return max([x for x, _ in (*self.steps, *self.evals)], default=0) or 1


def _read(metrics: Path) -> tuple[_Series, _Series]:
    """Return the finite losses of the steps and of the evaluations in a log.

    Lines that no run writes are left out. Raises CheckpointError.
    """
    steps: list[_Series] = [_finite([])]
    evals: list[_Series] = [_finite([])]
    try:
        with plain_log(metrics) as file:
            # In pieces of whole lines: the text takes ten times the memory of its figures.
            while piece := file.read(_PIECE) + file.readline():
                lines = piece.splitlines()
                written = _STEP.findall(piece)
                others = [line for line in lines if not line.startswith(_STEP_START)]
                if len(written) + len(others) != len(lines):  # another program wrote some
                    written, others = [], lines
                steps += [_finite(written), _finite(_figures(others, "step", "loss"))]
                evals.append(_finite(_figures(others, "eval", "val_loss")))
    except OSError as error:
        raise CheckpointError(f"cannot read {metrics}: {error.strerror or error}") from error
    return np.concatenate(steps, axis=1), np.concatenate(evals, axis=1)


def _figures(lines: Iterable[bytes], kind: str, name: str) -> list[tuple[Any, Any]]:
    """Return step and figure of the records of a kind."""
    figures = []
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            record = json.loads(line)
            if record["kind"] == kind:
                figures.append((float(record["step"]), _number(record[name])))
    return figures


def _number(value: Any) -> float:
    """Return a figure of the log, which has a string for one that is not finite, null for none."""
    return math.nan if value in (None, b"null") else float(value)


def _finite(pairs: Sequence[tuple[Any, Any]]) -> _Series:
    """Return the finite points."""
    losses = np.array([_number(y) for _, y in pairs], np.float64)
    series = np.stack([np.array([float(x) for x, _ in pairs], np.float64), losses])
    return series[:, np.isfinite(series[0]) & (np.abs(losses) < _MOST_LOSS)]


def _points(series: _Series) -> list[_Point]:
    return [(x, y) for x, y in series.T.tolist()]


class _Axes:
    """Places points in the picture; the x axis ends at the last step, the y axis at a tick."""

    def __init__(self, curves: _Curves) -> None:
        losses = [y for _, y in (*curves.steps, *curves.evals)] or [0.0]
        if curves.counting_loss is not None:
            losses.append(curves.counting_loss)
        self.end = float(curves.last_step)
        self.y_ticks = _ticks(min(losses), max(losses))
        self.x_ticks = _step_ticks(self.end)

    def place(self, point: _Point) -> _Point:
        x = _scaled(point[0], (0.0, self.end), _LEFT, _RIGHT)
        return round(x, 1), round(_scaled(point[1], self.y_ticks, _BOTTOM, _TOP), 1)

    def draw(self) -> Iterator[str]:
        for tick in self.x_ticks:
            x = self.place((tick, self.y_ticks[0]))[0]
            yield f'<path d="M{x} {_TOP}V{_BOTTOM}" stroke="#e6e6e6"/>'
            yield _text(x, _BOTTOM + 18, f"{tick:,.10g}")
        for tick in self.y_ticks:
            y = self.place((0.0, tick))[1]
            yield f'<path d="M{_LEFT} {y}H{_RIGHT}" stroke="#e6e6e6"/>'
            yield _text(_LEFT - 8, y + 4, f"{tick:.10g}", anchor="end")
        yield _text((_LEFT + _RIGHT) / 2, _HEIGHT - 12, "step")
        yield f'<g transform="rotate(-90 18 {_TOP})">'
        yield _text(18 - (_BOTTOM - _TOP) / 2, _TOP, "loss, nats per token") + "</g>"


def _svg(curves: _Curves, title: str) -> Iterator[str]:
    axes = _Axes(curves)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}"'
        f' viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield _text((_LEFT + _RIGHT) / 2, 26, title, size=15)
    yield from axes.draw()
    legend = []
    if curves.counting_loss is not None:
        y = axes.place((0.0, curves.counting_loss))[1]
        yield f'<path d="M{_LEFT} {y}H{_RIGHT}" stroke="{_COUNTING}" {_DOTTED}/>'
        legend.append((_COUNTING, f"counting ({curves.counting_loss:.3f})", _DOTTED))
    yield from _training(curves, axes, legend)
    yield from _validation(curves, axes, legend)
    yield from _legend(legend)
    yield "</svg>"


def _training(curves: _Curves, axes: _Axes, legend: list[_Entry]) -> Iterator[str]:
    steps = curves.steps
    if not steps:
        return
    yield _line(map(axes.place, steps), _TRAIN, 1)
    if len(steps) <= _FEW_POINTS:  # a line of one or two points is hardly seen
        yield from (_dot(axes.place(point), 3, _TRAIN) for point in steps)
    yield _line(map(axes.place, curves.means), _SMOOTH, 2)
    legend.append((_TRAIN, "training loss, each step", ""))
    legend.append((_SMOOTH, "training loss, running mean", ""))


def _validation(curves: _Curves, axes: _Axes, legend: list[_Entry]) -> Iterator[str]:
    if curves.best is None:
        return
    yield _line(map(axes.place, curves.evals), _VAL, 1.5)
    few = len(curves.evals) <= _FEW_EVALS
    yield from (_dot(axes.place(point), 5 if few else 3, _VAL) for point in curves.evals)
    if few:
        yield from (_value(point, axes.place(point)) for point in curves.evals)
    x, y = axes.place(curves.best)
    yield f'<circle cx="{x}" cy="{y}" r="7" fill="none" stroke="{_VAL}" stroke-width="2"/>'
    legend.append((_VAL, f"validation loss (last {curves.evals[-1][1]:.3f})", ""))
    step, loss = curves.best
    legend.append((_VAL, f"best: step {step:,.0f} ({loss:.3f})", "ring"))


def _legend(entries: Sequence[_Entry]) -> Iterator[str]:
    """Draw the legend on a white ground, because the curves may pass under it."""
    if not entries:
        return
    left, height = _RIGHT - 232, 18 * len(entries) + 6
    yield (
        f'<rect x="{left - 8}" y="{_TOP + 2}" width="{_RIGHT - left + 6}" height="{height}"'
        ' fill="white" fill-opacity="0.85"/>'
    )
    for row, (color, label, style) in enumerate(entries):
        y = _TOP + 18 + 18 * row
        if style == "ring":
            yield (
                f'<circle cx="{left + 12}" cy="{y - 4}" r="6" fill="none" stroke="{color}"'
                ' stroke-width="2"/>'
            )
        else:
            stroke = style or 'stroke-width="3"'
            yield f'<path d="M{left} {y - 4}h24" stroke="{color}" {stroke}/>'
        yield _text(left + 32, y, label, anchor="start")


def _value(point: _Point, place: _Point) -> str:
    """Return the loss of an evaluation, written next to its mark and inside the axes."""
    x, y = place
    is_left = x < (_LEFT + _RIGHT) / 2
    y += 22 if y < _TOP + 30 else -12
    return _text(
        x + (6 if is_left else -12), y, f"{point[1]:.3f}", anchor="start" if is_left else "end"
    )


def _dot(point: _Point, radius: float, color: str) -> str:
    return f'<circle cx="{point[0]}" cy="{point[1]}" r="{radius}" fill="{color}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12) -> str:
    clean = "".join(c if c.isprintable() else "\ufffd" for c in text)  # XML has no control codes
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        clean = clean.replace(sign, name)
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{clean}</text>'


def _line(points: Iterable[_Point], color: str, width: float) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>'


def _scaled(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return start + (end - start) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _step_ticks(end: float) -> list[float]:
    """Return round numbers of steps up to `end`, and `end` itself in place of a close neighbor."""
    step = max(1.0, _round_part(end))
    ticks = [step * i for i in range(int(end / step) + 1)]
    if end - ticks[-1] < step / 2 and len(ticks) > 1:
        ticks.pop()
    return [*ticks, end]


def _round_part(spread: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is at most a quarter of `spread`."""
    power = 10.0 ** math.floor(math.log10(spread / 4))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= spread / 4)


def _ticks(low: float, high: float) -> list[float]:
    """Return four to ten round numbers, the first at most `low`, the last at least `high`."""
    step = _round_part(high - low or max(abs(high), 1.0))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _smoothed(series: _Series) -> list[_Point]:
    """Return the points of the running mean that a picture shows."""
    return _thinned(_running_mean(series, max(1, int(series.shape[1] * _WINDOW))))


def _running_mean(series: _Series, window: int) -> _Series:
    """Return the mean of the last `window` losses at each point, or of as many as there are."""
    sums = np.concatenate([[0.0], np.cumsum(series[1])])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return np.stack([series[0], (sums[ends] - sums[starts]) / (ends - starts)])


def _thinned(series: _Series) -> list[_Point]:
    """Return the lowest and the highest point of each column of pixels, and both ends.

    The line through them looks like the line through all points.
    """
    count = series.shape[1]
    if count <= 2 * _COLUMNS:
        return _points(series)
    size = -(-count // _COLUMNS)
    padded = np.pad(series[1], (0, -count % size), mode="edge").reshape(-1, size)
    starts = np.arange(0, count, size)
    kept = [starts + padded.argmin(1), starts + padded.argmax(1), [0, count - 1]]
    return _points(series[:, np.unique(np.concatenate(kept))])
