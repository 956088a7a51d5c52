"""The graph of a Value as SVG: every node once, with its number and gradient, and bounded."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from nonempty import nonempty

import nanochat
from nanochat import Matrix, Value, select
from nanochat.errors import ConfigError, ProgramError

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> list[dict[str, object]]:
    """The boxes of an image: kind, texts, and left, right and middle."""
    found = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        x, y = map(float, re.findall(r"[\d.]+", group.attrib["transform"]))
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        texts = [text.text for text in group.findall(f"{SVG}text")]
        found.append({
            "kind": group.attrib["class"], "texts": texts, "left": x, "top": y,
            "right": x + float(rect.attrib["width"]), "bottom": y + float(rect.attrib["height"]),
        })  # fmt: skip
    return found


def edges(svg: str) -> int:
    return len(list(ElementTree.fromstring(svg).iter(f"{SVG}path")))


def test_every_node_is_one_box_with_its_number_and_gradient():
    a, b = Value(2.0), Value(-3.0)
    result = a * b + a
    result.backward()
    svg = result.to_svg(names={"a": a, "b": b})
    texts = [box["texts"] for box in boxes(svg)]
    assert sorted(texts) == sorted([
        ["a", "2", "grad -2"], ["b", "-3", "grad 2"], ["*", "-6", "grad 1"], ["+", "-4", "grad 1"],
    ])  # fmt: skip
    assert sorted(box["kind"] for box in boxes(svg)) == ["leaf", "leaf", "node", "node"]


def test_operands_are_left_of_their_results_and_no_boxes_overlap():
    x = Value(0.5)
    deep = x
    for _ in range(6):
        deep = (deep * x).tanh() + x
    found = boxes(deep.to_svg())
    for one in found:
        for other in found:
            if one is not other:
                apart = (
                    one["right"] < other["left"] or other["right"] < one["left"]
                    or one["bottom"] < other["top"] or other["bottom"] < one["top"]
                )  # fmt: skip
                assert apart
    (leaf,) = (box for box in found if box["kind"] == "leaf")
    assert leaf["left"] == min(box["left"] for box in found)


def test_an_operand_that_is_used_twice_has_one_edge():
    x = Value(3.0)
    assert edges((x * x).to_svg()) == 1


def test_a_large_graph_is_drawn_near_its_result_and_says_how_much_is_left_out():
    x = Value(1.0)
    total = x
    for _ in range(1_000):
        total = total + x
    svg = total.to_svg(most=10)
    assert len(boxes(svg)) == 10
    assert "<title>10 of 1,001 nodes</title>" in svg
    (cut,) = (box for box in boxes(svg) if box["kind"] == "more")
    assert cut["texts"][0] == "+ …"
    assert total._repr_svg_() is None
    assert (x + 1)._repr_svg_() == (x + 1).to_svg()


def test_names_are_text_and_never_markup():
    a = Value(1.0)
    svg = (a + 1).to_svg(names={"<script>": a, "xs": [Value(0.0)]})
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg


def test_the_style_applies_to_the_image_alone():
    image = ElementTree.fromstring((Value(1.0) + 1).to_svg())
    style = image.find(f"{SVG}style")
    selectors = re.findall(r"([^{}]+)\{", style.text)
    assert image.attrib["class"] == "value-graph"
    assert [selector.split()[0] for selector in nonempty(selectors)] == [".value-graph"] * 7


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "3"])
def test_most_must_be_a_positive_int(most):
    with pytest.raises(ConfigError, match=f"^most must be an int of at least 1, got {most!r}$"):
        Value(1.0).to_svg(most=most)


def test_to_svg_takes_keywords_only():
    with pytest.raises(TypeError, match=r"^to_svg\(\) takes keywords only: names, most$"):
        Value(1.0).to_svg(3)  # type: ignore[call-arg]  # the mistake is the test


def test_a_program_draws_one_document_and_leaves_the_gradients_as_they_were():
    w = Matrix([[0.1, 0.2], [0.3, 0.4]])

    def losses(tokens):
        return [-select(w.row(a), b) for a, b in pairwise(tokens)]

    program = nanochat.compile(losses, w, tokens=3)
    w.grads[:] = 7.0
    svg = program.to_svg([0, 1, 0], names={"w": [*w.row(0), *w.row(1)]})
    texts = [box["texts"] for box in boxes(svg)]
    assert ["w[1]", "0.2", "grad -0.5"] in texts
    assert ["w[2]", "0.3", "grad -0.5"] in texts
    assert (w.grads == 7.0).all()
    with pytest.raises(ProgramError, match=r"^tokens must be 3 numbers, got 2$"):
        program.to_svg([0, 1])


def test_a_notebook_shows_a_matrix_and_a_program():
    w = Matrix([[0.125, 2.0]])
    w.grads[:] = 3.0
    html = w._repr_html_()
    assert "<caption>Matrix of 1 × 2</caption>" in html
    assert "<td title='0.125, grad 3.0'>0.125</td>" in html
    assert "…" in Matrix([[0.0] * 20] * 20)._repr_html_()
    program = nanochat.compile(lambda inputs: (w.row(0)[0] - inputs[0]) ** 2, w, inputs=1)
    shown = program._repr_html_()
    assert shown.startswith("<details><summary>Program: 1 positions, 0 tokens, 1 inputs")
    assert "&lt;" in shown or "<pre>" in shown
