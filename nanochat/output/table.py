"""Tables for people: by rich on a terminal, as aligned plain text in a pipe.

Cells may hold anything that a file name can hold; what a terminal would obey is escaped.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["escaped", "natural_width", "on_terminal", "table_html", "table_text", "terminal_width"]

_GAP = 2  # columns of the screen between two of the table


def on_terminal() -> bool:
    """Return whether the results go to a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def terminal_width() -> int:
    import shutil

    return max(shutil.get_terminal_size().columns, 40)


def table_text(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int] = (),  # columns that are aligned to the right
    whole: Collection[int] = (),  # columns that a narrow terminal must not break
    rich: bool | None = None,  # None: if the results go to a terminal
) -> str:
    """Return a table as lines, without a line break at the end."""
    rows = [[escaped(cell) for cell in row] for row in rows]
    if on_terminal() if rich is None else rich:
        return _rich(header, rows, numbers, whole)
    widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(_plain(row, widths, numbers) for row in (header, *rows))


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML for notebooks, in which no text is markup."""
    import html  # only notebooks need it

    def line(tag: str, cells: Sequence[str]) -> str:
        style = "text-align:left"
        return "".join(f"<{tag} style='{style}'>{html.escape(cell)}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<table><tr>{line('th', header)}</tr>{body}</table>"


def escaped(text: str) -> str:
    """Return the text with characters that a terminal does not print escaped; lines stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def natural_width(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return the columns that a table needs on one line per row."""
    widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
    return sum(widths) + _GAP * (len(widths) - 1)


def _plain(row: Sequence[str], widths: Sequence[int], numbers: Collection[int]) -> str:
    cells = []
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - _width(cell))
        cells.append(space + cell if column in numbers else cell + space)
    return (" " * _GAP).join(cells).rstrip()


def _width(text: str) -> int:
    """Return the columns of a terminal that the widest line of a text takes."""
    return max(
        sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)
        for line in text.split("\n")
    )


def _rich(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Collection[int],
    whole: Collection[int],
) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for column, name in enumerate(header):
        justify: Any = "right" if column in numbers else "left"
        table.add_column(Text(name), justify=justify, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*map(Text, row))
    # Without styles: Terminal.result escapes the codes of every style.
    console = Console(width=terminal_width(), color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
