"""The tables of `nanochat runs`: runs in a list, one run, runs side by side.

Owns their words and units. What they show comes from runs/summary.py and commands/runs.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nanochat.config.option import as_text
from nanochat.output.table import (
    escaped,
    natural_width,
    on_terminal,
    table_text,
    terminal_width,
)
from nanochat.runs.counts_facts import WARNING, without_rare
from nanochat.runs.summary import DAMAGED, RunSummary

__all__ = ["age_text", "compare_text", "counts_lines", "list_text", "show_text", "size_text"]

_MISSING = "–"


def list_text(runs: Sequence[RunSummary]) -> str:
    """Return the table of `nanochat runs`; on a narrow terminal each run takes two lines."""
    header = ["run", "text", "model", "parameters", "steps", "loss", "bits/byte", "size", "age",
              "state"]  # fmt: skip
    rows = [_list_row(run) for run in runs]
    if not on_terminal() or natural_width(header, rows) <= terminal_width():
        return table_text(header, rows, numbers=range(3, 9))
    # Too wide for the terminal: each run takes two lines.
    header = ["run", "text", "model", "steps", "best loss", "age"]
    notes = [f"{escaped(run.name)}: {run.problem}" for run in runs if run.problem]
    return "\n".join([table_text(header, [_folded(row) for row in rows], whole=(0,)), *notes])


def _list_row(run: RunSummary) -> list[str]:
    best = run.best
    state = f"{run.state}: {run.problem}" if run.state == DAMAGED else run.state
    return [
        run.name,
        _or_missing(run.config.get("data"), _text_name),
        _model_name(run) or _MISSING,
        _or_missing(run.params, _count),
        _or_missing(run.steps, "{:,}".format),
        _or_missing(best and best.loss, "{:.3f}".format),
        _or_missing(best and best.bpb, "{:.3f}".format),
        size_text(run.size_bytes),
        age_text(time.time() - run.written_s),
        state,
    ]


def _model_name(run: RunSummary) -> str:
    """Return kind and preset, or one of them if they are equal."""
    words = (run.config.get("model_kind"), run.config.get("preset"))
    return " ".join(str(word) for word in dict.fromkeys(words) if word)


def _text_name(data: Any) -> str:
    """Return the name of a run's text: of the first of several paths, with the number of others."""
    paths = [str(path) for path in (data if isinstance(data, (list, tuple)) else [data])]
    name = _source_name(os.path.basename(paths[0].rstrip("/"))) if paths else _MISSING
    return name if len(paths) < 2 else f"{name} +{len(paths) - 1}"


def _source_name(path: str) -> str:
    return "standard input" if path == "-" else path


def _source_names(data: Any) -> str:
    if isinstance(data, (list, tuple)):
        return ", ".join(_source_name(str(path)) for path in data)
    return as_text(data)


def _joined(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else as_text(value)


def _folded(row: Sequence[str]) -> list[str]:
    """Return the cells of a row in two lines each, for a narrow terminal."""
    name, text, model, params, steps, loss, bpb, size, age, state = row
    name = _in_two_lines(name)
    text = text if len(text) <= 14 else text[:13] + "…"
    steps = steps if steps == _MISSING else f"{steps} steps"
    params = params if params == _MISSING else f"{params} weights"
    loss = loss if loss == _MISSING else f"{loss} nats"
    bpb = bpb if bpb == _MISSING else f"{bpb} bits/B"
    state = state.partition(":")[0]  # what is wrong with a damaged run follows the table
    pairs = ((text, ""), (model, params), (steps, size), (loss, bpb), (age, state))
    return [name, *(f"{first}\n{second}" for first, second in pairs)]


def _in_two_lines(name: str) -> str:
    """Return a long name of a run with a line break after a hyphen."""
    if len(name) <= 20 or "-" not in name[8:20]:
        return name
    cut = name.rindex("-", 8, 20) + 1  # 20260101-120000-mini-gpt-scalar
    return f"{name[:cut]}\n{name[cut:]}"


def show_text(run: RunSummary, record: Mapping[str, Any]) -> str:
    """Return the page of `nanochat runs show`; `record` is its JSON object."""
    config = run.config
    state = f"{run.state}: {run.problem}" if run.problem else run.state
    lines = [
        f"run: {run.path}",
        f"state: {state}",
        f"last written: {age_text(time.time() - run.written_s)} ago",
        f"size on disk: {size_text(run.size_bytes)}",
    ]
    if config:
        parameters = f", {run.params:,} parameters{_tables(run)}" if run.params is not None else ""
        lines += [
            f"text: {_source_names(config.get('data'))}",
            f"model: {_model_name(run)}{parameters}",
            f"engine: {config.get('mode')}, {config.get('device')} {config.get('dtype')}",
        ]
    source = record["initialized_from"]
    if isinstance(source, dict):
        lines.append(
            f"started from: {source.get('path')}, weights SHA-256"
            f" {str(source.get('weights_sha256'))[:12]}…"
        )
    lines += counts_lines(record["counts"])
    text = "\n".join(escaped(line) for line in lines)
    if record["options"]:
        rows = [[name, _joined(value)] for name, value in record["options"].items()]
        text += "\n\n" + table_text(["option", "value"], rows)
    if run.result:
        rows = [[name, _figure(value)] for name, value in run.result.items() if name != "samples"]
        text += "\n\n" + table_text(["result", "value"], rows)
    if record["checkpoints"]:
        rows = [[f"{c['step']:,}", size_text(c["bytes"]), _marks(c)] for c in record["checkpoints"]]
        text += "\n\n" + table_text(["checkpoint", "size", ""], rows, numbers=(0, 1))
    for number, sample in enumerate(record["samples"], start=1):
        text += f"\n\nsample {number}: {escaped(sample.strip())}"
    return text


def counts_lines(counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a person should know of the counts of a run; no line without counts."""
    lines = []
    for each in counts:
        missing = f", {without_rare(**each['cutoff'])}" if each["cutoff"] else ""
        size = "unknown size" if each["bytes"] is None else size_text(each["bytes"])
        lines.append(
            f"counts: order {_or_missing(each['order'], str)},"
            f" {_or_missing(each['entries'], '{:,}'.format)} entries of"
            f" {_or_missing(each['tokens'], '{:,}'.format)} tokens, {size}{missing}"
        )
        lines.append(f"counts SHA-256: {each['sha256']}")
    return [*lines, WARNING] if counts else lines


def _tables(run: RunSummary) -> str:
    """Return how many of the parameters are table entries, and those of counts, if the result says
    so."""
    entries, counts = run.table_entries, run.count_entries
    text = f" ({entries:,} of them table entries)" if entries is not None and run.params else ""
    return (
        f"{text}, {counts:,} table entries of counts, which hold the training text"
        if counts
        else text
    )


def _marks(checkpoint: Mapping[str, Any]) -> str:
    return ", ".join(name for name in ("best", "last") if checkpoint[name])


def compare_text(
    labels: Sequence[str],
    options: Mapping[str, Sequence[Any]],  # the values of each run, by name
    results: Sequence[Mapping[str, Any]],
) -> str:
    """Return the table of `nanochat runs compare`: one column per run."""
    rows = [
        [name, *(_MISSING if v is None else _joined(v) for v in found)]
        for name, found in options.items()
    ]
    rows += [[name, *(_result_text(name, r[name]) for r in results)] for name in results[0]]
    header = ["", *labels]
    if on_terminal() and natural_width(header, rows) > terminal_width():
        header = ["", *map(_in_two_lines, labels)]
    return table_text(header, rows)


def _result_text(name: str, value: Any) -> str:
    if name == "bytes on disk":
        return size_text(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if name == "tokens per second" else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else _figure(value)


def _figure(value: Any) -> str:
    if value is None:
        return _MISSING
    return f"{value:.6g}" if isinstance(value, float) else as_text(value)


def _or_missing(value: Any, text: Callable[[Any], str]) -> str:
    return _MISSING if value is None else text(value)


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def size_text(size_bytes: int) -> str:
    """Return bytes in a unit: `412 kB`."""
    return f"{_count(size_bytes)}B" if size_bytes >= 1000 else f"{size_bytes} B"


def age_text(seconds: float) -> str:
    """Return a time in its largest unit: `3 h`; a clock that went back gives `0 s`."""
    units = (("d", 86400), ("h", 3600), ("min", 60))
    seconds = max(seconds, 0.0)
    return next((f"{int(seconds // s)} {u}" for u, s in units if seconds >= s), f"{int(seconds)} s")
