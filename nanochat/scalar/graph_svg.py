"""Values for the eye: the graph of a Value as SVG, a Matrix as an HTML table.

Operands are on the left, the result is on the right. Each box is one Value with its operation,
number and gradient. A large graph is drawn near its result alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from nanochat.errors import ConfigError
from nanochat.scalar.value import Matrix, Value

__all__ = ["MOST_NODES", "graph_svg", "matrix_html", "small_graph_svg"]

MOST_NODES = 300
_MOST_CELLS = 16  # rows and columns of a matrix in a notebook
_COUNTED = 100_000  # nodes that are counted, drawn or not
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 132, 48, 44, 14, 12
_PASS = 8  # the height that an edge takes in a column that it passes
_SWEEPS = 6  # over the columns, to let edges cross less

# A notebook or page may hold the image inline, where a rule of its style applies to the whole page.
_STYLE = "".join(
    f".value-graph {rule}"
    for rule in (
        "rect{fill:#fff;stroke:#4a5568}",
        ".leaf rect{fill:#e8f1fa;stroke:#2b6cb0}",
        ".more rect{stroke-dasharray:4 3}",
        "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1a202c}",
        ".op{font-weight:700}",
        ".grad{fill:#9c4221}",
        "path{fill:none;stroke:#718096}",
    )
)


def graph_svg(
    result: Value,
    *,
    names: Mapping[str, Value | Sequence[Value]] | None = None,
    most: int = MOST_NODES,
) -> str:
    """Return the graph that computes `result`, as the text of an SVG image.

    Call `result.backward()` first to see gradients.

    Args:
        names: Values by the name that their box shows; of a list, each by its index.
        most: nodes to draw, those nearest to the result; the others become one box per operand.

    Raises ConfigError for `most` below 1.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ConfigError(f"most must be an int of at least 1, got {most!r}")
    drawn, hidden = _nearest(result, most)
    columns, boxes = _columns(drawn)
    labels = _labels(names or {})
    tallest = max(map(_height, columns))
    for column in columns:  # are centered
        for item in column:
            item.y += _MARGIN + (tallest - _height(column)) / 2
    width = len(columns) * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = tallest + 2 * _MARGIN
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" class="value-graph" {size} role="img">']
    parts += [f"<title>{_title(drawn, hidden)}</title>", f"<style>{_STYLE}</style>"]
    parts += [_edge(item, other) for column in columns for item in column for other in item.right]
    parts += [_box(box, node, labels.get(node, ""), node in hidden) for node, box in boxes.items()]
    return "".join([*parts, "</svg>"])


def small_graph_svg(result: Value) -> str | None:
    """Return the graph for a notebook, or None if it is too large to be drawn whole."""
    _, hidden = _nearest(result, MOST_NODES)
    return None if hidden else graph_svg(result)


def matrix_html(matrix: Matrix) -> str:
    """Return the numbers of a Matrix as a table for notebooks; a cell's title has its gradient."""
    rows, columns = matrix.shape
    header = f"Matrix of {rows} × {columns}"
    body = ""
    numbers = matrix.values[:_MOST_CELLS, :_MOST_CELLS].tolist()
    gradients = matrix.grads[:_MOST_CELLS, :_MOST_CELLS].tolist()
    for row, slopes in zip(numbers, gradients, strict=True):
        cells = "".join(
            f"<td title='{number!r}, grad {slope!r}'>{number:.4g}</td>"
            for number, slope in zip(row, slopes, strict=True)
        )
        body += f"<tr>{cells}{'<td>…</td>' if columns > _MOST_CELLS else ''}</tr>"
    more = "<tr><td>…</td></tr>" if rows > _MOST_CELLS else ""
    return f"<table><caption>{header}</caption>{body}{more}</table>"


def _nearest(result: Value, most: int) -> tuple[list[Value], dict[Value, None]]:
    """Return the nodes to draw, breadth first, and those of them whose operands are not drawn."""
    found = {result: None}
    queue = [result]
    for node in queue:
        for child in node.children:
            if child not in found and len(found) < most:
                found[child] = None
                queue.append(child)
    hidden = {node: None for node in queue if any(child not in found for child in node.children)}
    return queue, hidden


def _title(drawn: Sequence[Value], hidden: Mapping[Value, None]) -> str:
    if not hidden:
        return f"{len(drawn)} nodes"
    seen = dict.fromkeys(drawn)
    queue = list(drawn)
    for node in queue:
        if len(seen) > _COUNTED:
            return f"{len(drawn)} of more than {_COUNTED:,} nodes"
        for child in node.children:
            if child not in seen:
                seen[child] = None
                queue.append(child)
    return f"{len(drawn)} of {len(seen):,} nodes"


@dataclass(eq=False, slots=True)
class _Item:
    """A box, or a point where an edge passes a column."""

    node: Value | None
    column: int
    left: list[_Item] = field(default_factory=list)  # neighbours in the columns next to it
    right: list[_Item] = field(default_factory=list)
    row: float = 0.0
    y: float = 0.0  # of the middle

    @property
    def height(self) -> float:
        return _HEIGHT if self.node is not None else _PASS


def _depths(drawn: Sequence[Value]) -> dict[Value, int]:
    """Return the longest path from each node to the result; every node follows its users."""
    inside = set(drawn)
    waiting = dict.fromkeys(drawn, 0)
    for node in drawn:
        for child in set(node.children) & inside:
            waiting[child] += 1
    depths, ready = {drawn[0]: 0}, [drawn[0]]
    for node in ready:
        for child in dict.fromkeys(node.children):
            if child in inside:
                depths[child] = max(depths.get(child, 0), depths[node] + 1)
                waiting[child] -= 1
                if not waiting[child]:
                    ready.append(child)
    return {node: depths[node] for node in ready}


def _columns(drawn: Sequence[Value]) -> tuple[list[list[_Item]], dict[Value, _Item]]:
    """Return the items of each column from top to bottom, and the boxes by their node."""
    depths = _depths(drawn)
    last = max(depths.values())
    columns: list[list[_Item]] = [[] for _ in range(last + 1)]

    def add(node: Value | None, column: int) -> _Item:
        item = _Item(node, column)
        columns[column].append(item)
        return item

    boxes = {node: add(node, last - depth) for node, depth in depths.items()}
    for node in depths:
        for child in dict.fromkeys(node.children):
            if child not in boxes:
                continue
            previous = boxes[child]
            end = boxes[node]
            for index in range(previous.column + 1, end.column + 1):
                item = end if index == end.column else add(None, index)
                previous.right.append(item)
                item.left.append(previous)
                previous = item
    _order(columns)
    for column in columns:
        y = 0.0
        for item in column:
            item.y = y + item.height / 2
            y += item.height + _GAP_Y
    return columns, boxes


def _order(columns: Sequence[list[_Item]]) -> None:
    """Sort each column by the mean row of the neighbours, to and fro, so that few edges cross."""
    for column in columns:
        _number(column)
    for sweep in range(_SWEEPS):
        backward = sweep % 2 == 0
        for column in reversed(columns) if backward else columns:
            for item in column:
                near = item.right if backward else item.left
                if near:
                    item.row = sum(other.row for other in near) / len(near)
            column.sort(key=lambda item: item.row)
            _number(column)


def _number(column: Sequence[_Item]) -> None:
    for row, item in enumerate(column):
        item.row = row


def _height(column: Sequence[_Item]) -> float:
    return sum(item.height + _GAP_Y for item in column) - _GAP_Y


def _labels(names: Mapping[str, Value | Sequence[Value]]) -> dict[Value, str]:
    labels = {}
    for name, given in names.items():
        if isinstance(given, Value):
            labels[given] = name
        else:
            labels.update({value: f"{name}[{index}]" for index, value in enumerate(given)})
    return labels


def _edge(start: _Item, end: _Item) -> str:
    """Return a curve between two items; through a point it goes straight on."""
    x0, x1 = _left(start) + _WIDTH, _left(end)
    middle = (x0 + x1) / 2
    curve = f"C{middle:g} {start.y:g} {middle:g} {end.y:g} {x1:g} {end.y:g}"
    through = "" if end.node is not None else f"h{_WIDTH}"
    return f'<path d="M{x0:g} {start.y:g}{curve}{through}"/>'


def _left(item: _Item) -> float:
    return _MARGIN + item.column * (_WIDTH + _GAP_X)


def _box(item: _Item, node: Value, label: str, is_cut: bool) -> str:
    x, y = _left(item), item.y - _HEIGHT / 2
    kind = "more" if is_cut else "leaf" if not node.children else "node"
    head = " ".join(filter(None, [label, node.op])) or "value"
    head += " …" if is_cut else ""
    return (
        f'<g class="{kind}" transform="translate({x:g} {y:g})">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
        f'<text class="op" x="8" y="15">{escape(head[:16])}</text>'
        f'<text x="8" y="29">{node.data:.6g}</text>'
        f'<text class="grad" x="8" y="43">grad {node.grad:.6g}</text>'
        f"<title>{escape(head)}: data {node.data!r}, grad {node.grad!r}</title></g>"
    )
