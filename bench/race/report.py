"""The results of a race: a record checked by a schema, a CSV, a Markdown table and a plot."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema

from bench.race.statistics import p_below, ratio_interval

SCHEMA = Path(__file__).parent / "race.schema.json"
COLUMNS = (
    "parameters", "counts", "context", "whole process, s", "steps alone, s", "nats per byte",
    "bits per byte", "times faster", "p (score below the peer's)", "runs",
)  # fmt: skip


def summarise(runs: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Return one row per side with the means over its scored runs.

    Our sides are compared with the peer's entry of the same name, the others with `reference`.
    """
    sides = list(dict.fromkeys(run["side"] for run in runs))
    done = {side: [r for r in runs if r["side"] == side and r["score"] is not None]
            for side in sides}  # fmt: skip
    entry = {side: side.partition(" ")[2] for side in sides}
    peers: dict[str, str] = {}  # by entry: the first peer with a score
    for side in sides:
        if done[side] and not side.startswith("ours "):
            peers.setdefault(entry[side], side)
    rows = []
    for side in sides:
        other = peers.get(entry[side], reference) if side.startswith("ours ") else reference
        rows.append(_row(side, runs, done[side], done.get(other, []), side == other))
    return rows


def _row(
    side: str,
    runs: Sequence[Mapping[str, Any]],
    done: Sequence[Mapping[str, Any]],
    compared: Sequence[Mapping[str, Any]],  # the runs of the side that it is compared with
    is_reference: bool,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "side": side,
        "started": sum(run["side"] == side for run in runs),
        "finished": len(done),
        "notes": sorted({r["reason"] for r in runs if r["side"] == side and r["reason"]}),
    }
    if not done:
        return row
    for name in ("seconds", "steps_seconds", "score", "bpb"):
        values = [run[name] for run in done if run[name] is not None]
        if values:
            row[name] = statistics.mean(values)
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    row |= {name: done[0][name] for name in ("parameters", "context")}
    row["count_entries"] = done[0].get("count_entries") or 0
    if compared and not is_reference:
        scores = [run["score"] for run in done]
        row["p_below_reference"] = p_below(
            scores, statistics.mean(run["score"] for run in compared)
        )
        seconds = [[run["seconds"] for run in each] for each in (compared, done)]
        ratio, low, high = ratio_interval(*seconds)
        row["times_faster"] = {"ratio": ratio, "low": low, "high": high}
    return row


def write_report(record: Mapping[str, Any], folder: Path) -> None:
    """Write NAME.json, .csv, .md and .png. Raises ValidationError before writing."""
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    folder.mkdir(exist_ok=True)
    name = folder / record["name"]
    name.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    with name.with_suffix(".csv").open("w", newline="") as file:
        columns = [key for key in record["runs"][0] if key != "curve"] if record["runs"] else []
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(record["runs"])
    name.with_suffix(".md").write_text(table(record["summary"]))
    draw(record, name.with_suffix(".png"))


def table(summary: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"| side | {' | '.join(COLUMNS)} |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for row in summary:
        if "score" not in row:
            notes = "; ".join(row["notes"]) or "no score"
            lines.append(f"| {row['side']} | | | | | | | | | {notes} | 0/{row['started']} |")
            continue
        faster = row.get("times_faster")
        ratio = (
            f"{faster['ratio']:.1f} ({faster['low']:.1f}–{faster['high']:.1f})" if faster else ""
        )
        p = f"{row['p_below_reference']:.1g}" if "p_below_reference" in row else ""
        lines.append(
            f"| {row['side']} | {row['parameters']:,} | {row.get('count_entries', 0):,}"
            f" | {row['context']}"
            f" | {_spread(row, 'seconds', 1)}"
            f" | {_spread(row, 'steps_seconds', 1)} | {_spread(row, 'score', 4)}"
            f" | {_spread(row, 'bpb', 4)} | {ratio} | {p}"
            f" | {row['finished']}/{row['started']} |"
        )
    return "\n".join(lines) + "\n"


def _spread(row: Mapping[str, Any], name: str, digits: int) -> str:
    if name not in row:
        return ""
    return f"{row[name]:.{digits}f} ± {row[f'{name}_sd']:.{digits}f}"


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Plot the scores at the ends of the processes. Lines are the losses that a run printed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for number, side in enumerate(dict.fromkeys(run["side"] for run in record["runs"])):
        color = f"C{number}"
        runs = [run for run in record["runs"] if run["side"] == side and run["score"] is not None]
        for run in runs:
            if len(run["curve"]) > 2:  # two points would be a straight line
                axes.plot(*zip(*run["curve"], strict=True), color=color, alpha=0.35, linewidth=1)
        if runs:
            axes.scatter(
                [run["seconds"] for run in runs], [run["score"] for run in runs],
                color=color, zorder=3, s=28, label=side,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds from the start of the process")
    axes.set_ylabel("validation loss, nats per byte")
    axes.set_ylim(top=min(axes.get_ylim()[1], 2.6))
    axes.grid(alpha=0.25, which="both")
    if axes.has_data():
        axes.legend(frameon=False)
    axes.set_title(record["title"], fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
