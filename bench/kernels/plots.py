"""The plots of the kernel benchmark: every contestant relative to the limit, and a roofline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # without pyplot: no global state, no display

from bench.kernels.report import CaseFigures, Report, short

__all__ = ["plot_cases", "plot_roofline"]

OURS, PEER, TORCH, LIMIT = "#1f4e8c", "#b8c4d6", "#d1495b", "#555555"
KINDS = {"cross_entropy": "CE", "linear_cross_entropy": "linear CE", "sample": "sample"}
SPREAD = 1.8  # factor between the outermost points of equal intensity
LIMITS = {"cross_entropy": "copy", "linear_cross_entropy": "products", "sample": "read"}


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6, which="both")
    axes.set_axisbelow(True)
    return figure, axes


def _label(figures: CaseFigures) -> str:
    case = figures.case
    shape = f"{case.rows} × {case.vocab}"
    if case.width:
        shape = f"{case.rows} × {case.width} → {case.vocab}"
    kept = f", top-k {case.top_k}" if case.top_k else ""
    kept += f", top-p {case.top_p:g}" if case.top_p < 1 else ""
    dtype = {"float32": "f32", "bfloat16": "bf16"}[case.dtype]
    return f"{KINDS[case.kind]} {shape} {dtype}{kept}"


def plot_cases(report: Report, picture: Path) -> None:
    """Plot one row per case: the time of each contestant divided by the limit's."""
    every = [each for each in report.cases() if each.limit is not None]
    figure, axes = _axes(10, 1.6 + 0.42 * len(every))
    labels = []
    for row, figures in enumerate(every):
        assert figures.limit is not None
        unit = figures.limit.median_ms
        for line in figures.lines:
            if line.role == "limit":
                continue
            mine, plain = line.role == "ours", line is figures.plain_torch
            axes.plot(
                line.median_ms / unit,
                row,
                "o" if mine else "D" if plain else "s",
                color=OURS if mine else TORCH if plain else PEER,
                markersize=8 if mine else 6,
                markeredgecolor="white",
                markeredgewidth=0.6,
                zorder=3 if mine or plain else 2,
            )
        labels.append(f"{_label(figures)}\n{LIMITS[figures.case.kind]} {short(unit)} ms")
    axes.axvline(1, color=LIMIT, linewidth=1.2)
    for marker, colour, text in (
        ("o", OURS, "nanochat: op, ABI, in place"),
        ("D", TORCH, "plain torch"),
        ("s", PEER, "torch: huge pages, compiled, other idioms"),
    ):
        axes.plot([], [], marker, color=colour, label=text)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain_number)
    axes.set_yticks(range(len(every)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("median time / limit: 1 is one copy, one reading, or the products alone")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    _save(figure, picture)


def _plain_number(value: float, _position: object) -> str:
    return f"{value:g}"


def plot_roofline(report: Report, picture: Path) -> None:
    """Plot our best and the best peer of each case below the copy and the matrix products."""
    figure, axes = _axes(10, 6)
    copy = report.copy_gb_per_s()
    points = [(each, _points(each)) for each in report.cases()]
    low = min(each.case.intensity for each, _ in points) / 4
    high = max(each.case.intensity for each, _ in points) * 3
    peaks = {dtype: report.gflops(dtype) for dtype in ("float32", "bfloat16")}
    for (dtype, peak), style in zip(peaks.items(), ("-", "--"), strict=True):
        knee = peak / copy
        axes.plot([low, knee, high], [low * copy, peak, peak], style, color=LIMIT, linewidth=1.4)
        text = f"{dtype} product {peak:.0f} GFLOP/s"
        _note(axes, text, (high, peak), (0, 3), "right")
    _note(axes, f"copy {copy:.1f} GB/s", (low, low * copy), (6, -12), "left")
    marks = _marks(len(points))
    xs = _apart([figures for figures, _ in points])
    for (figures, both), (marker, colour) in zip(points, marks, strict=True):
        x = xs[figures.case.name]
        for line_ms, filled in both:
            y = figures.case.operations / line_ms / 1e6
            face = colour if filled else "white"
            axes.plot(x, y, marker, color=colour, markerfacecolor=face, markersize=8)
        axes.plot([], [], marker, color=colour, markersize=8, label=_label(figures))
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.xaxis.set_major_formatter(_plain_number)
    axes.yaxis.set_major_formatter(_plain_number)
    axes.set_xlabel("operations per byte that must be moved")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(
        "filled: nanochat; open: the best peer; neighbors are moved apart horizontally;\n"
        "data that fits in the caches may lie above the line of the copy",
        fontsize=9,
    )
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    _save(figure, picture)


def _apart(every: Sequence[CaseFigures]) -> dict[str, float]:
    """Return the intensities by case, with equal ones spread apart."""
    xs = {}
    for figures in every:
        x = figures.case.intensity
        same = [each.case.name for each in every if each.case.intensity == x]
        share = (same.index(figures.case.name) + 0.5) / len(same) - 0.5
        xs[figures.case.name] = x * SPREAD**share
    return xs


def _note(
    axes: Any, text: str, at: tuple[float, float], points: tuple[int, int], side: str
) -> None:
    axes.annotate(text, at, points, textcoords="offset points", ha=side, fontsize=8, color=LIMIT)


def _points(figures: CaseFigures) -> list[tuple[float, bool]]:
    """Return (median ms, is ours) of our fastest and of the best peer that it is compared with."""
    ours = figures.fastest("ours")
    peer = figures.best_peer(ours) if ours else figures.fastest("peer")
    found = [(ours, True), (peer, False)]
    return [(line.median_ms, mine) for line, mine in found if line is not None]


def _marks(count: int) -> Sequence[tuple[str, str]]:
    markers = "os^vD<>PXhp*d"
    colours = ("#1f4e8c", "#d1495b", "#2a9d5c", "#b07aa1", "#e08e2b", "#4aa3c7", "#7a5c3e")
    return [(markers[i % len(markers)], colours[i % len(colours)]) for i in range(count)]


def _save(figure: Figure, picture: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks
        figure.savefig(picture, format="png")
    print(picture)
