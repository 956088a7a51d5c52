"""The table of an ablation on a terminal: variants from the best to the worst.

Files and pipes get the Markdown of ablation_report.py.
"""

from __future__ import annotations

import io
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.output.ablation_report import Report, paired_difference
from nanochat.output.text import escaped
from nanochat.system.wording import counted

__all__ = ["Row", "ablation_rows", "ablation_table"]

_HEADERS = ("variant", "val loss", "bits/byte", "difference", "params", "seconds")
_WIDE = 72  # columns from which the figures are not folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant: means over its seeds, each with half the width of its 95 % interval."""

    variant: str
    seeds: int
    loss: tuple[float, float | None] | None  # validation loss, nats per token
    bpb: tuple[float, float | None] | None  # bits per byte
    difference: tuple[float, float | None] | None  # of the losses, to the first variant's, by seed
    params: int
    seconds: float | None  # of training


def ablation_rows(report: Report) -> list[Row]:
    """Return the variants by rising validation loss; those without a loss are last."""
    first: Sequence[Mapping[str, Any]] = next(iter(report.groups.values()), [])
    rows = [_row(record, report.groups[record["variant"]], first) for record in report.variants()]
    return sorted(rows, key=lambda row: (row.loss is None, row.loss[0] if row.loss else 0.0))


def _row(
    record: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> Row:
    scores = [
        None if record[f"{name}_mean"] is None else (record[f"{name}_mean"], record[f"{name}_ci95"])
        for name in ("val_loss", "val_bpb")
    ]
    times = [run["steps"] / run["steps_per_sec"] for run in runs if run["steps_per_sec"]]
    return Row(
        variant=record["variant"],
        seeds=record["seeds"],
        loss=scores[0],
        bpb=scores[1],
        difference=None if runs is first else paired_difference(runs, first, "val_loss"),
        params=runs[0]["params"],
        seconds=statistics.fmean(times) if times else None,
    )


def ablation_table(report: Report, width: int, encoding: str) -> str:
    """Return the table as text of at most `width` columns, in characters of the encoding."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_plain = not _can_write("±─", encoding)
    sign = "+/-" if is_plain else "±"
    rows = ablation_rows(report)
    common = rows[0].seeds if rows and len({row.seeds for row in rows}) == 1 else None
    table = Table(box=box.ASCII if is_plain else box.SIMPLE_HEAD, padding=0)
    for name in _HEADERS:
        is_text = name == "variant"
        table.add_column(
            name, justify="left" if is_text else "right", overflow="fold",
            no_wrap=not is_text and width >= _WIDE,
        )  # fmt: skip
    for row in rows:
        variant = row.variant.replace(", ", "\n")
        if row.seeds != common:
            variant += f"\n({counted(row.seeds, 'seed')})"
        cells = (
            variant, _figure(row.loss, sign), _figure(row.bpb and (row.bpb[0], None), sign),
            _figure(row.difference, sign, form="+.4f"), f"{row.params:,}",
            "-" if row.seconds is None else f"{row.seconds:.1f}",
        )  # fmt: skip
        table.add_row(*(Text(escaped(cell)) for cell in cells))
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, emoji=False, legacy_windows=False)
    console.print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    caption = textwrap.wrap(_caption(common, sign), width)
    return "\n".join([*caption, *(line for line in lines if line)])


def _caption(seeds: int | None, sign: str) -> str:
    start = "" if seeds is None else f"{counted(seeds, 'seed')} per variant; "
    interval = "" if seeds == 1 else f"mean {sign} half of the 95 % interval; "
    return f"{start}{interval}differences to the first variant by seed"


def _figure(value: tuple[float, float | None] | None, sign: str, form: str = ".4f") -> str:
    if value is None:
        return "-"
    mean, half = value
    return f"{mean:{form}}" if half is None else f"{mean:{form}} {sign} {half:.4f}"


def _can_write(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
