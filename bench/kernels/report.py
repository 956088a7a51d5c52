"""Figures of the kernel benchmark from its seconds: CSV, printed table, table of the docs."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.kernels.cases import CPU_CASES, CUDA_CASES, PRODUCT_SIZE, Case

__all__ = ["Line", "Report", "csv_rows", "print_table", "short", "write_csv"]

BEGIN, END = "<!-- figures of bench/results/kernels/kernels.json -->", "<!-- end of the figures -->"
PLAIN_TORCH = ("F.cross_entropy", "F.linear, F.cross_entropy", "nanoGPT's idiom",
               "softmax, multinomial", "Llama's idiom")  # fmt: skip


@dataclass(frozen=True)
class Line:
    """The times of one contestant of a case."""

    case: Case
    name: str
    role: str
    best_ms: float
    median_ms: float
    bytes: int

    @property
    def gb_per_s(self) -> float:
        return self.bytes / self.median_ms / 1e6


class CaseFigures:
    """The lines of a case, and the lines that they are compared with. Ratios are of medians."""

    def __init__(self, case: Case, contestants: dict[str, Any]) -> None:
        self.case = case
        self.lines = [
            Line(case, name, each["role"], each["best_ms"], each["median_ms"], each["bytes"])
            for name, each in contestants.items()
        ]

    def fastest(self, role: str, prefix: str = "") -> Line | None:
        found = [each for each in self.lines if each.role == role and each.name.startswith(prefix)]
        return min(found, key=lambda line: line.median_ms, default=None)

    @property
    def ours(self) -> list[Line]:
        return [line for line in self.lines if line.role == "ours"]

    @property
    def plain_torch(self) -> Line | None:
        return next((line for line in self.lines if line.name in PLAIN_TORCH), None)

    @property
    def limit(self) -> Line | None:
        prefix = {"cross_entropy": "copy", "sample": "read"}.get(self.case.kind, "products")
        return self.fastest("limit", prefix)

    def best_peer(self, line: Line) -> Line | None:
        """Return the fastest peer. For calls of the ABI, peers without autograd count too."""
        found = [self.fastest("peer")]
        if "ABI" in line.name:
            found.append(self.fastest("bare peer"))
        known = [each for each in found if each is not None]
        return min(known, key=lambda each: each.median_ms, default=None)

    def ratio_to_best_peer(self, line: Line) -> float | None:
        peer = self.best_peer(line)
        return peer and peer.median_ms / line.median_ms

    def ratio_to_torch(self, line: Line) -> float | None:
        return self.plain_torch and self.plain_torch.median_ms / line.median_ms

    def limit_share(self, line: Line) -> float | None:
        return self.limit and self.limit.median_ms / line.median_ms

    def is_met(self, line: Line) -> bool:
        goal = self.case.goal
        return (self.ratio_to_best_peer(line) or 0) >= goal.ratio and (
            not goal.limit_share or (self.limit_share(line) or 0) >= goal.limit_share
        )


class Report:
    """The record of a run, which is written as JSON, and the figures computed from it."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def add(self, case: Case, measured: dict[str, Any]) -> None:
        contestants = {}
        for name, each in measured["contestants"].items():
            runs = [seconds for batch in each["seconds"] for seconds in batch]
            contestants[name] = {
                "role": each["role"],
                "best_ms": 1e3 * min(runs),
                "median_ms": 1e3 * statistics.median(runs),
                "runs": len(runs),
                "round_median_ms": [1e3 * statistics.median(batch) for batch in each["seconds"]],
                "bytes": moved(case, name),
            }
        self.record["cases"][case.name] = {
            "case": case.as_json(),
            "limit": case.limit,
            "bytes": case.bytes,
            "operations": case.operations,
            "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "contestants": contestants,
            "missing": measured["missing"],
        }

    def keep_others_of(self, before: Report) -> None:
        """Take the cases that this run did not measure from an earlier one, in the usual order."""
        every = {**before.record["cases"], **self.record["cases"]}
        known = [case.name for case in (*CPU_CASES, *CUDA_CASES) if case.name in every]
        machine = [name for name in self.record["cases"] if name not in known]
        self.record["cases"] = {name: every[name] for name in (*machine, *known)}

    def cases(self) -> Iterator[CaseFigures]:
        """Yield all cases except those of the machine."""
        for each in self.record["cases"].values():
            case = Case.from_json(each["case"])
            if case.kind != "machine":
                yield CaseFigures(case, each["contestants"])

    def _machine(self, dtype: str) -> CaseFigures:
        for each in self.record["cases"].values():
            case = Case.from_json(each["case"])
            if case.kind == "machine" and case.dtype == dtype:
                return CaseFigures(case, each["contestants"])
        raise SystemExit(f"the record must have the machine's limits for {dtype}; measure again")

    def copy_gb_per_s(self, figures: CaseFigures | None = None) -> float:
        """Return the rate of a copy: of the case's logits (median), or of a large buffer (best)."""
        line = figures.fastest("limit", "copy") if figures else None
        if line is not None:
            return line.gb_per_s
        line = self._machine("float32").fastest("limit", "copy")
        assert line is not None
        return line.bytes / line.best_ms / 1e6

    def gflops(self, dtype: str) -> float:
        line = self._machine(dtype).fastest("limit", "product")
        assert line is not None
        size = int(line.name.split()[-1].rstrip("³"))
        assert size in PRODUCT_SIZE.values()
        return 2 * size**3 / line.best_ms / 1e6

    def fill_table(self, page: Path) -> None:
        """Write the figures between the two markers of a page."""
        text = page.read_text(encoding="utf-8")
        head, _, rest = text.partition(BEGIN)
        _, _, tail = rest.partition(END)
        if not tail:
            raise SystemExit(f"{page} must have the lines {BEGIN} and {END}")
        table = "\n".join(docs_table(self))
        page.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}", encoding="utf-8")


def moved(case: Case, name: str) -> int:
    """Return the bytes that a contestant's task must move, which count even if it moves more."""
    if name.startswith("copy"):
        return 2 * case.matrix_bytes
    if name.startswith("read"):
        return case.matrix_bytes
    return case.bytes


def short(value: float) -> str:
    """Format with three or more digits and without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def csv_rows(report: Report) -> Iterator[dict[str, object]]:
    for figures in report.cases():
        copy = report.copy_gb_per_s(figures)
        for line in figures.lines:
            yield {
                "case": figures.case.name,
                "rows": figures.case.rows,
                "vocab": figures.case.vocab,
                "dtype": figures.case.dtype,
                "contestant": line.name,
                "role": line.role,
                "best_ms": f"{line.best_ms:.5g}",
                "median_ms": f"{line.median_ms:.5g}",
                "bytes": line.bytes,
                "gb_per_s": f"{line.gb_per_s:.4g}",
                "percent_of_copy": _share(line.gb_per_s / copy),
                "percent_of_limit": _share(figures.limit_share(line)),
                "ratio_to_best_peer": _ratio(figures.ratio_to_best_peer(line)),
                "ratio_to_torch": _ratio(figures.ratio_to_torch(line)),
            }


def write_csv(path: Path, rows: Iterable[dict[str, object]]) -> Path:
    every = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(every[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(every)
    return path


HEADER = ("case", "ours", "ms", "best peer", "ms", "ratio", "% of copy", "% of limit", "goal")


def _cells(report: Report) -> Iterator[tuple[str, ...]]:
    for figures in report.cases():
        copy = report.copy_gb_per_s(figures)
        if not figures.ours:
            yield (figures.case.name, "missing", *[""] * 6, "no")
        for line in figures.ours:
            peer = figures.best_peer(line)
            theirs = (peer.name, f"{peer.median_ms:.4g}") if peer else ("none", "")
            yield (
                figures.case.name,
                line.name.removeprefix("nanochat "),
                f"{line.median_ms:.4g}",
                *theirs,
                f"{figures.ratio_to_best_peer(line) or 0:.2f}",
                f"{100 * line.gb_per_s / copy:.0f}",
                _share(figures.limit_share(line)).partition(".")[0],
                "met" if figures.is_met(line) else "no",
            )


def print_table(report: Report) -> None:
    """Print the medians. The ratio is the best peer's time divided by ours."""
    rows = [HEADER, *_cells(report)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    numbers = {i for i, title in enumerate(HEADER) if title in ("ms", "ratio") or "%" in title}
    for row in rows:
        cells = (
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
    products = " and ".join(
        f"{report.gflops(dtype):.0f} GFLOP/s in {dtype}" for dtype in ("float32", "bfloat16")
    )
    print(f"limits: copy {report.copy_gb_per_s():.1f} GB/s, matrix product {products}")
    for each in report.record["cases"].values():
        for name, reason in each["missing"].items():
            print(f"{Case.from_json(each['case']).name}: no {name}: {reason}")


def docs_table(report: Report) -> Iterator[str]:
    yield "| case | ours | ms | limit, ms | torch, ms | best peer | ms | ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for figures in report.cases():
        torch, limit = figures.plain_torch, figures.limit
        for line in figures.ours:
            peer = figures.best_peer(line)
            cells = [
                f"`{figures.case.name}`",
                line.name.removeprefix("nanochat "),
                short(line.median_ms),
                short(limit.median_ms) if limit else "",
                short(torch.median_ms) if torch else "",
                peer.name if peer else "",
                short(peer.median_ms) if peer else "",
                f"{figures.ratio_to_best_peer(line) or 0:.2f}",
            ]
            yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        f"Medians; ratio: the best peer's time over ours. At best a large copy moves"
        f" {report.copy_gb_per_s():.1f} GB/s (read plus written), a matrix product does"
        f" {report.gflops('float32'):.0f} GFLOP/s in float32 and"
        f" {report.gflops('bfloat16'):.0f} in bfloat16."
    )
