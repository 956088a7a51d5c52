"""The loss curves of several runs in one SVG picture, in the style of loss_curve.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nanochat.output.loss_curve import (
    _BOTTOM,
    _HEIGHT,
    _LEFT,
    _RIGHT,
    _TOP,
    _WIDTH,
    _line,
    _Point,
    _scaled,
    _smoothed,
    _text,
    _ticks,
)
from nanochat.system.durable import output_error

__all__ = ["Curve", "write_curves"]

# Blue, red, green, orange, violet, brown, teal, gray: told apart by most color-blind readers.
_COLORS = (
    "#1f4e8c", "#d1495b", "#3a8f5c", "#e08e1b", "#7d5ba6", "#7a5230", "#2a9d9d", "#6b7280",
)  # fmt: skip
_LABEL_CHARACTERS = 28


class Curve(NamedTuple):
    """One run: its training loss (may be empty) and its validation loss by step."""

    label: str
    steps: Sequence[_Point]
    evals: Sequence[_Point]


def write_curves(curves: Sequence[Curve], picture: Path, unit: str) -> None:
    """Plot the running mean of each training loss, thin, and each validation loss.

    Raises OutputError.
    """
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text("\n".join(_svg(curves, unit)) + "\n", encoding="utf-8")
    except OSError as error:
        raise output_error(picture, error) from error


def _svg(curves: Sequence[Curve], unit: str) -> Iterator[str]:
    means = [_smoothed(np.array(c.steps, np.float64).reshape(-1, 2).T) for c in curves]
    shown = [p for curve, mean in zip(curves, means, strict=True) for p in (*mean, *curve.evals)]
    shown = shown or [(0.0, 0.0)]
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
    title = "validation loss" + (", and training loss (thin)" if any(means) else "")
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
    yield _text(18 - (_BOTTOM - _TOP) / 2, _TOP, f"loss, {unit}") + "</g>"
    for number, (curve, mean) in enumerate(zip(curves, means, strict=True)):
        color = _COLORS[number % len(_COLORS)]
        if mean:
            yield _line(map(place, mean), color, 0.8)
        if curve.evals:
            yield _line(map(place, curve.evals), color, 2)
            for x, y in map(place, curve.evals):
                yield f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>'
        y = _TOP + 16 + 18 * number
        yield f'<path d="M540 {y - 4}H564" stroke="{color}" stroke-width="3"/>'
        yield _text(572, y, _label(curve), anchor="start")
    yield "</svg>"


def _label(curve: Curve) -> str:
    name = curve.label
    if len(name) > _LABEL_CHARACTERS:
        name = name[: _LABEL_CHARACTERS - 1] + "…"
    return f"{name} ({min(loss for _, loss in curve.evals):.3f})" if curve.evals else name
