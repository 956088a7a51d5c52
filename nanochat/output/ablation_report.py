"""The tables and the plot of an ablation: CSV and JSONL per run, Markdown and plot per variant."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.config.options import TrainConfig, options_of
from nanochat.output.ablation_plot import plot_ablation
from nanochat.system.durable import output_error

__all__ = ["Report", "confidence_95", "paired_difference", "write_report"]

# Student's t, two-sided 95 %, by degrees of freedom 1 … 30 (NIST/SEMATECH handbook, 1.3.6.7.2).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_TIMINGS = ("steps_per_sec", "tokens_per_sec")


def confidence_95(values: Sequence[float]) -> float:
    """Return half the width of the mean's 95 % interval, by Student's t; nan for a single value."""
    n = len(values)
    if n < 2:
        return math.nan
    freedom = n - 1
    if freedom <= len(_T95):
        t = _T95[freedom - 1]
    else:  # to 0.0001 (Cornish & Fisher 1938)
        z = 1.959964
        t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return t * statistics.stdev(values) / math.sqrt(n)


def paired_difference(
    runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], score: str
) -> tuple[float, float | None] | None:
    """Return the mean of score − other score over the seeds that both have, and half the width of
    its 95 % interval, None for a single seed. None without a common seed.

    A seed gives both runs the same batches and draws, so their difference varies less than the
    scores do.
    """
    theirs = {run["seed"]: run[score] for run in others if run[score] is not None}
    differences = [
        run[score] - theirs[run["seed"]]
        for run in runs
        if run[score] is not None and run["seed"] in theirs
    ]
    if not differences:
        return None
    half = confidence_95(differences)
    return statistics.fmean(differences), None if math.isnan(half) else half


class Report:
    """Runs grouped by variant, in the order of the grid."""

    def __init__(self, axes: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> None:
        self.axes = list(axes)
        self.runs = list(runs)
        self.groups: dict[str, list[Mapping[str, Any]]] = {}
        for run in self.runs:
            label = ", ".join(f"{axis}={_value_text(axis, run[axis])}" for axis in self.axes)
            self.groups.setdefault(label, []).append(run)

    def variants(self) -> list[dict[str, Any]]:
        """Return one record per variant: the mean of each score over the seeds and its interval."""
        records = []
        for label, runs in self.groups.items():
            record: dict[str, Any] = {"variant": label, "seeds": len(runs)}
            for score in ("val_loss", "val_bpb"):
                values = self.scores(runs, score)
                record[f"{score}_mean"] = statistics.fmean(values) if values else None
                half = confidence_95(values)
                record[f"{score}_ci95"] = None if math.isnan(half) else half
            records.append(record)
        return records

    @staticmethod
    def scores(runs: Sequence[Mapping[str, Any]], score: str) -> list[float]:
        return [run[score] for run in runs if run[score] is not None]

    def markdown(self) -> str:
        lines = [
            "| variant | seeds | validation loss, nats/token | bits per byte |",
            "|---|---:|---:|---:|",
        ]
        for record in self.variants():
            scores = (_with_interval(record, score) for score in ("val_loss", "val_bpb"))
            lines.append(f"| {record['variant']} | {record['seeds']} | {' | '.join(scores)} |")
        return "\n".join(lines)

    def csv(self) -> str:
        """Return one line per run. Timing columns are last: only they differ between reruns."""
        if not self.runs:
            return ""
        columns = [key for key in self.runs[0] if key not in _TIMINGS] + list(_TIMINGS)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.runs)
        return text.getvalue()


def _value_text(axis: str, value: Any) -> str:
    option = options_of(TrainConfig).get(axis)
    return (str(value) if option is None else option.text(value)).lower()


def _with_interval(record: Mapping[str, Any], score: str) -> str:
    mean, half = record[f"{score}_mean"], record[f"{score}_ci95"]
    if mean is None:
        return "none"
    return f"{mean:.4f}" if half is None else f"{mean:.4f} ± {half:.4f}"


def write_report(report: Report, folder: Path) -> list[dict[str, Any]]:
    """Write results.csv, results.jsonl, table.md and losses.png. Raises OutputError."""
    variants = report.variants()
    jsonl = "".join(json.dumps(run) + "\n" for run in report.runs)
    texts = {
        "results.csv": report.csv(),
        "results.jsonl": jsonl,
        "table.md": report.markdown() + "\n",
    }
    for name, text in texts.items():
        try:
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise output_error(folder / name, error) from error
    scored = [record for record in variants if record["val_loss_mean"] is not None]
    plot_ablation(
        [record["variant"] for record in scored],
        [record["val_loss_mean"] for record in scored],
        [record["val_loss_ci95"] or 0.0 for record in scored],
        [report.scores(report.groups[record["variant"]], "val_loss") for record in scored],
        folder / "losses.png",
        "ablation",
    )  # fmt: skip
    return variants
