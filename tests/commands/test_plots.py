"""The pictures: what is drawn where, and that no text or figure can break them."""

from __future__ import annotations

import json
import math

import pytest
from matplotlib.figure import Figure

from nanochat.commands.plots import plot_ablation, plot_losses
from nanochat.errors import OutputError


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


def log(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def steps(losses):
    return [{"kind": "step", "step": i, "loss": loss} for i, loss in enumerate(losses, start=1)]


def evaluation(step, loss):
    return {"kind": "eval", "step": step, "val_loss": loss}


def lines_of(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
            for line in axes.lines}  # fmt: skip


def test_losses_their_running_mean_and_evaluations_are_drawn(tmp_path, drawn):
    losses = [float(i % 7) for i in range(100)]
    records = [evaluation(0, 3.0), *steps(losses), evaluation(100, 1.5)]
    plot_losses(log(tmp_path / "m.jsonl", records), tmp_path / "p.png", "a title")
    lines = lines_of(drawn[0])
    assert drawn[0].get_title() == "a title"
    assert lines["training loss, each step"] == (list(range(1, 101)), losses)
    means = [sum(losses[max(0, i - 3) : i + 1]) / min(i + 1, 4) for i in range(100)]
    assert lines["training loss, running mean"][1] == pytest.approx(means)
    assert lines["validation loss (last 1.500)"] == ([0, 100], [3.0, 1.5])


@pytest.mark.parametrize(
    "records",
    [[], steps([2.0]), [evaluation(0, None)], [evaluation(0, 3.0)],
     [*steps([2.0, 1.0]), evaluation(2, "inf")], [*steps([2.0]), evaluation(1, "nan")]],
)  # fmt: skip
def test_any_log_makes_a_picture(tmp_path, records):
    picture = tmp_path / "p.png"
    plot_losses(log(tmp_path / "m.jsonl", records), picture, "title")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("title", ["$x_{2$ \\frac", "数据 😀", "", "a" * 500])
def test_any_title_is_drawn_as_text(tmp_path, drawn, title):
    plot_losses(log(tmp_path / "m.jsonl", steps([1.0])), tmp_path / "p.png", title)
    plot_ablation([f"data={title}"], [1.0], [0.1], [[0.9, 1.1]], tmp_path / "a.png", "ablation")
    assert drawn[0].get_title() == title


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
        plot_losses(log(tmp_path / "m.jsonl", steps([1.0])), tmp_path / "p.png", "title")
