"""The loss curve: what an XML reader finds in the picture, compared with the log."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from xml.etree import ElementTree

import numpy as np
import pytest

from nanochat.errors import OutputError
from nanochat.output import loss_curve as module
from nanochat.output.loss_curve import write_loss_curve

SVG = "{http://www.w3.org/2000/svg}"
TRAIN, MEAN, VAL, COUNTING = "#b8c4d6", "#1f4e8c", "#d1495b", "#3d3d3d"


def steps(losses):
    return [{"kind": "step", "step": i, "loss": loss} for i, loss in enumerate(losses, start=1)]


def evaluation(step, loss):
    return {"kind": "eval", "step": step, "val_loss": loss}


@pytest.fixture
def drawn(tmp_path):
    """The picture of the records, as the root of its XML."""

    def draw(records, title="title", **options):
        log = tmp_path / "m.jsonl"
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        write_loss_curve(log, tmp_path / "p.svg", title, **options)
        return ElementTree.parse(tmp_path / "p.svg").getroot()

    return draw


def texts(picture):
    return [
        (t.text or "", float(t.get("x")), float(t.get("y"))) for t in picture.iter(SVG + "text")
    ]


def read_off(picture, colour):
    """The points of a line in steps and nats, by the labels of the axes: two of each."""
    numbers = [(float(t.replace(",", "")), x, y) for t, x, y in texts(picture) if is_number(t)]
    left = min(x for _, x, _ in numbers)
    vertical = [(value, y - 4) for value, x, y in numbers if x == left]
    bottom = max(y for _, _, y in numbers)
    horizontal = [(value, x) for value, x, y in numbers if y == bottom]
    (line,) = (p for p in picture.iter(SVG + "polyline") if p.get("stroke") == colour)
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    return [(between(x, horizontal), between(y, vertical)) for x, y in points]


def is_number(text):
    return text.replace(",", "").replace(".", "").replace("-", "").isdigit()


def between(place, labels):
    (low, start), (high, end) = labels[0], labels[-1]
    return low + (high - low) * (place - start) / (end - start)


def close(points, expected, tolerance):
    assert len(points) == len(expected)
    for (x, y), (step, loss) in zip(points, expected, strict=True):
        assert x == pytest.approx(step, abs=tolerance[0])
        assert y == pytest.approx(loss, abs=tolerance[1])


def test_losses_their_running_mean_and_evaluations_are_where_the_axes_say(drawn):
    losses = [2 + math.sin(i) for i in range(100)]
    picture = drawn([evaluation(0, 3.5), *steps(losses), evaluation(100, 1.5)])
    near = (0.1, 0.01)  # a tenth of a pixel
    close(read_off(picture, TRAIN), list(enumerate(losses, start=1)), near)
    means = [sum(losses[max(0, i - 3) : i + 1]) / min(i + 1, 4) for i in range(100)]
    close(read_off(picture, MEAN), list(enumerate(means, start=1)), near)
    close(read_off(picture, VAL), [(0, 3.5), (100, 1.5)], near)
    words = [text for text, _, _ in texts(picture)]
    assert "validation loss (last 1.500)" in words
    assert {"title", "step", "loss, nats per token", "training loss, each step"} <= set(words)


@pytest.mark.parametrize("last", [1, 2, 7, 99, 101, 660, 1337, 2000, 123_456])
def test_the_axis_ends_at_the_last_step_taken_with_labels_that_do_not_touch(drawn, last):
    picture = drawn([evaluation(0, 3.0), *steps([2.5]), evaluation(last, 2.0)])
    labels = [(t, x) for t, x, y in texts(picture) if is_number(t) and y == 446]
    assert labels[-1] == (f"{last:,}", 796)
    assert labels[0] == ("0", 64)
    places = [x for _, x in labels]
    assert all(b - a > 7 * len(f"{last:,}") for a, b in itertools.pairwise(places))
    for text, x in labels:
        step = float(text.replace(",", ""))
        assert x == pytest.approx(64 + 732 * step / last, abs=0.1)


def test_the_best_evaluation_is_ringed_and_named(drawn):
    scores = [(0, 3.0), (10, 1.25), (20, 2.0), (30, 1.25), (40, 2.5)]
    picture = drawn([*steps([2.0] * 40), *(evaluation(*score) for score in scores)])
    rings = [c for c in picture.iter(SVG + "circle") if c.get("r") == "7"]
    (line,) = (p for p in picture.iter(SVG + "polyline") if p.get("stroke") == VAL)
    assert [f"{c.get('cx')},{c.get('cy')}" for c in rings] == [line.get("points").split()[1]]
    assert "best: step 10 (1.250)" in [text for text, _, _ in texts(picture)]


def test_counting_is_a_dotted_line_across_the_axes(drawn):
    records = [evaluation(0, 3.0), *steps([2.0] * 9), evaluation(9, 2.5)]
    picture = drawn(records, counting_loss=1.2345)
    dotted = [p for p in picture.iter(SVG + "path") if p.get("stroke-dasharray")]
    across = [p for p in dotted if p.get("d").startswith("M64 ")]
    assert [p.get("stroke") for p in dotted] == [COUNTING] * 2  # one is in the legend
    (place,) = (p.get("d") for p in across)
    assert place.endswith("H796")
    left = min(x for text, x, _ in texts(picture) if is_number(text))
    ticks = [(float(t), y - 4) for t, x, y in texts(picture) if is_number(t) and x == left]
    y = float(place.removeprefix("M64 ").removesuffix("H796"))
    assert between(y, ticks) == pytest.approx(1.2345, abs=0.01)
    assert "counting (1.234)" in [text for text, _, _ in texts(picture)]
    assert not [p for p in drawn(records).iter(SVG + "path") if p.get("stroke-dasharray")]


def test_two_points_are_drawn_large_with_their_values_inside_the_picture(drawn):
    picture = drawn([evaluation(0, 3.3), *steps([3.1]), evaluation(1, 3.2)])
    words = {text: (x, y) for text, x, y in texts(picture)}
    for value in ("3.300", "3.200"):
        assert 64 < words[value][0] < 796 and 44 < words[value][1] < 428
    dots = [c for c in picture.iter(SVG + "circle") if c.get("fill") == VAL]
    assert [c.get("r") for c in dots] == ["5", "5"]
    steps_drawn = [c for c in picture.iter(SVG + "circle") if c.get("fill") == TRAIN]
    assert len(steps_drawn) == 1  # a line of one point is invisible


def test_a_long_run_keeps_its_extremes_and_stays_small(drawn, tmp_path):
    losses = [2.0] * 20_000
    losses[3_141], losses[19_265] = 9.0, 0.5
    line = read_off(drawn(steps(losses)), TRAIN)
    assert max(y for _, y in line) == pytest.approx(9.0, abs=0.05)
    assert min(y for _, y in line) == pytest.approx(0.5, abs=0.05)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert (tmp_path / "p.svg").stat().st_size < 100_000


def test_a_long_line_has_the_extremes_of_every_column_and_the_mean_of_its_window(drawn):
    generator = np.random.default_rng(0)
    losses = 2 + generator.random(9_000)
    picture = drawn(steps(losses.tolist()))
    line, mean = np.array(read_off(picture, TRAIN)), np.array(read_off(picture, MEAN))
    for start in range(0, len(losses), 100):  # of several columns
        shown = line[(line[:, 0] > start - 7) & (line[:, 0] < start + 107)][:, 1]
        stretch = losses[start : start + 100]
        assert shown.min() < stretch.min() + 0.01
        assert shown.max() > stretch.max() - 0.01
    assert line[-1, 0] == pytest.approx(9_000, abs=7)
    expected = np.convolve(losses, np.ones(360) / 360, "valid")  # of 4 % of the steps
    whole = mean[mean[:, 0] > 370]
    found = np.interp(np.arange(380, 9_000), *whole.T)
    np.testing.assert_allclose(found, expected[20:8_640], atol=0.01)


def test_a_log_as_written_and_one_with_other_spaces_give_the_same_picture(tmp_path):
    figures = [3.5, "nan", None, 1e-300, "inf", "-inf", 2.25, 7e5, 3]
    records = [*steps(figures), evaluation(5, 2.5), evaluation(9, "nan")]
    records[0] |= {"grad_norm": 1.0, "lr": 0.1}
    pictures = []
    for separators in ((",", ":"), (", ", ": ")):
        log = tmp_path / "m.jsonl"
        log.write_text("".join(json.dumps(r, separators=separators) + "\n" for r in records))
        write_loss_curve(log, tmp_path / "p.svg", "title")
        pictures.append((tmp_path / "p.svg").read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("piece", [1, 100, 4096])
def test_a_log_that_is_read_in_pieces_gives_the_same_picture(tmp_path, monkeypatch, piece):
    log = tmp_path / "m.jsonl"
    records = [
        r for i in range(1, 3000) for r in (*steps([0.0] * i)[-1:], evaluation(i, 1 + 1 / i))
    ]
    for record in records[::2]:
        record["loss"] = 2 + math.sin(record["step"])
    lines = [json.dumps(r, separators=(",", ":")) + "\n" for r in records]
    lines[500:500] = ["not JSON\n", '{"kind":"step","step":1}\n', "\n"]
    log.write_text("".join(lines))
    pictures = []
    for size in (module._PIECE, piece):
        monkeypatch.setattr(module, "_PIECE", size)
        write_loss_curve(log, tmp_path / "p.svg", "title")
        pictures.append((tmp_path / "p.svg").read_bytes())
    assert pictures[0] == pictures[1]


def test_a_long_log_takes_the_memory_of_its_figures_and_not_of_its_text(tmp_path):
    log = tmp_path / "m.jsonl"
    line = '{{"kind":"step","step":{},"loss":2.5,"grad_norm":1.0,"pad":"' + "x" * 300 + '"}}\n'
    with log.open("w") as file:
        file.writelines(map(line.format, range(1, 200_001)))
    assert log.stat().st_size > 70e6
    tracemalloc.start()
    try:
        write_loss_curve(log, tmp_path / "p.svg", "title")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6


@pytest.mark.parametrize(
    "records",
    [[], steps([2.0]), [evaluation(0, None)], [evaluation(0, 3.0)], steps([0.0]), steps([1e30]),
     [*steps([2.0, 1.0]), evaluation(2, "inf")], [*steps([2.0]), evaluation(1, "nan")],
     steps([5.0, 5.0]), steps([5.0, 5.0 + 1e-12])],
)  # fmt: skip
def test_any_log_makes_a_picture_inside_its_frame(drawn, records):
    picture = drawn(records)
    width, height = float(picture.get("width")), float(picture.get("height"))
    lines = picture.iter(SVG + "polyline")
    points = [tuple(map(float, p.split(","))) for line in lines for p in line.get("points").split()]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


@pytest.mark.parametrize(
    "title", ["<b> & \"x\" 'y' ]]>", "$x_{2$ \\frac", "数据 😀", "", "a" * 500]
)
def test_any_title_is_drawn_as_text(drawn, title):
    assert title in [text for text, _, _ in texts(drawn(steps([1.0]), title))]


def test_a_control_code_that_xml_cannot_hold_is_shown_as_a_replacement(drawn):
    assert "a\ufffdb" in [text for text, _, _ in texts(drawn([], "a\x1bb"))]


def test_a_picture_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "p.svg").mkdir()
    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(OutputError, match="p.svg: Is a directory; choose a writable out$"):
        write_loss_curve(tmp_path / "m.jsonl", tmp_path / "p.svg", "title")
