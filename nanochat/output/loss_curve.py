"""The loss curve of a run, written as SVG text.

Importing matplotlib takes longer than training a small model. Owns the picture's scales and marks;
the ablation's picture is in ablation_plot.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nanochat.system.durable import output_error

__all__ = ["write_loss_curve"]

_Point = tuple[float, float]  # (step, loss), and in the picture (x, y) in pixels

_TRAIN, _SMOOTH, _VAL = "#b8c4d6", "#1f4e8c", "#d1495b"
_WIDTH, _HEIGHT = 840, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 796, 44, 428  # of the axes
_WINDOW = 0.04  # of the run, for the running mean
_MOST_POINTS = 2000  # of a line; more than the picture has columns


def write_loss_curve(metrics: Path, picture: Path, title: str) -> None:
    """Plot the training loss of each step, its running mean, and each evaluation.

    Leaves out figures that are not finite. Raises OutputError.
    """
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = _finite((r["step"], r["loss"]) for r in records if r["kind"] == "step")
    evals = _finite((r["step"], r["val_loss"]) for r in records if r["kind"] == "eval")
    try:
        picture.write_text("\n".join(_svg(steps, evals, title)) + "\n", encoding="utf-8")
    except OSError as error:
        raise output_error(picture, error) from error


def _finite(pairs: Iterable[tuple[int, float | str | None]]) -> list[_Point]:
    """Return the finite points; the log holds a string for a loss that is not finite, null for a
    missing one."""
    points = ((step, float(loss)) for step, loss in pairs if loss is not None)
    return [(step, loss) for step, loss in points if math.isfinite(loss)]


def _svg(steps: Sequence[_Point], evals: Sequence[_Point], title: str) -> Iterator[str]:
    shown = [*steps, *evals] or [(0.0, 0.0)]
    x_ticks = _ticks(0.0, max(x for x, _ in shown))
    y_ticks = _ticks(min(y for _, y in shown), max(y for _, y in shown))

    def place(point: _Point) -> _Point:
        x = _scaled(point[0], x_ticks, _LEFT, _RIGHT)
        return round(x, 1), round(_scaled(point[1], y_ticks, _BOTTOM, _TOP), 1)

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}"'
        f' viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield _text((_LEFT + _RIGHT) / 2, 26, title, size=15)
    for tick in x_ticks:
        x = place((tick, y_ticks[0]))[0]
        yield f'<path d="M{x} {_TOP}V{_BOTTOM}" stroke="#e6e6e6"/>'
        yield _text(x, _BOTTOM + 18, f"{tick:,.10g}")
    for tick in y_ticks:
        y = place((0.0, tick))[1]
        yield f'<path d="M{_LEFT} {y}H{_RIGHT}" stroke="#e6e6e6"/>'
        yield _text(_LEFT - 8, y + 4, f"{tick:.10g}", anchor="end")
    yield _text((_LEFT + _RIGHT) / 2, _HEIGHT - 12, "step")
    yield f'<g transform="rotate(-90 18 {_TOP})">'
    yield _text(18 - (_BOTTOM - _TOP) / 2, _TOP, "loss, nats per token") + "</g>"
    labels = []
    if steps:
        yield _line(map(place, _thinned(steps)), _TRAIN, 1)
        means = _running_mean(steps, max(1, int(len(steps) * _WINDOW)))
        yield _line(map(place, _thinned(means)), _SMOOTH, 2)
        labels += [(_TRAIN, "training loss, each step"), (_SMOOTH, "training loss, running mean")]
    if evals:
        yield _line(map(place, evals), _VAL, 1.5)
        for x, y in map(place, evals):
            yield f'<circle cx="{x}" cy="{y}" r="3" fill="{_VAL}"/>'
        labels.append((_VAL, f"validation loss (last {evals[-1][1]:.3f})"))
    for row, (colour, label) in enumerate(labels):
        y = _TOP + 16 + 18 * row
        yield f'<path d="M580 {y - 4}H604" stroke="{colour}" stroke-width="3"/>'
        yield _text(612, y, label, anchor="start")
    yield "</svg>"


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12) -> str:
    clean = "".join(c if c.isprintable() else "\ufffd" for c in text)  # XML has no control codes
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        clean = clean.replace(sign, name)
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{clean}</text>'


def _line(points: Iterable[_Point], colour: str, width: float) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _scaled(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return start + (end - start) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _ticks(low: float, high: float) -> list[float]:
    """Return four to ten round numbers, the first at most `low`, the last at least `high`."""
    spread = high - low or max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(spread / 4))
    step = max(factor * power for factor in (1, 2, 5) if factor * power <= spread / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _running_mean(points: Sequence[_Point], window: int) -> list[_Point]:
    total, means = 0.0, []
    for i, (step, loss) in enumerate(points):
        total += loss - (points[i - window][1] if i >= window else 0.0)
        means.append((step, total / min(i + 1, window)))
    return means


def _thinned(points: Sequence[_Point]) -> Sequence[_Point]:
    """Return the lowest and highest point of each stretch of a long line, which look the same."""
    if len(points) <= _MOST_POINTS:
        return points
    size = -(-len(points) // (_MOST_POINTS // 2))
    kept = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept
