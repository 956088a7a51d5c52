"""The picture of an ablation: what is drawn where, and that no text can break it."""

from __future__ import annotations

import math

import pytest
from matplotlib.figure import Figure

from nanochat.errors import OutputError
from nanochat.output.ablation_plot import plot_ablation


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure that is saved."""
    axes = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        axes.extend(figure.axes)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes


@pytest.mark.parametrize("title", ["$x_{2$ \\frac", "数据 😀", "", "a" * 500])
def test_any_label_is_drawn_as_text(tmp_path, drawn, title):
    plot_ablation([f"data={title}"], [1.0], [0.1], [[0.9, 1.1]], tmp_path / "a.png", "ablation")
    (label,) = drawn[0].get_yticklabels()
    assert label.get_text() == f"data={title}"[:60] or label.get_text().endswith("…")


def test_an_ablation_shows_seeds_means_and_intervals_from_top_to_bottom(tmp_path, drawn):
    labels, means, halves = ["a", "b"], [1.0, 2.0], [0.25, 0.5]
    plot_ablation(labels, means, halves, [[0.9, 1.1], [1.8, 2.2]], tmp_path / "a.png", "t")
    axes = drawn[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == labels
    top, bottom = axes.get_ylim()[::-1]
    assert top < 0 < 1 < bottom
    seeds = [line for line in axes.lines if line.get_markersize() == 5]
    assert [list(line.get_xdata()) for line in seeds] == [[0.9, 1.1], [1.8, 2.2]]
    (segments,) = [c.get_segments() for c in axes.collections]
    widths = [math.dist(*segment) / 2 for segment in segments]
    assert widths == pytest.approx(halves)


def test_a_picture_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "p.png").mkdir()
    with pytest.raises(OutputError, match="p.png: Is a directory; choose a writable out$"):
        plot_ablation(["a"], [1.0], [0.1], [[0.9, 1.1]], tmp_path / "p.png", "title")
