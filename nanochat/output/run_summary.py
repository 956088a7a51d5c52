"""The end of a run in lines for people: the result, the curve, and what to do next."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Score", "run_summary", "scores_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one evaluation says: bits per byte where the text has bytes, otherwise nats."""

    step: int
    loss: float  # nats per token
    bpb: float | None  # bits per byte


def scores_of(metrics: Path) -> list[Score]:
    """Return the finite scores of the evaluations in a run's metrics.jsonl."""
    scores = []
    with metrics.open(encoding="utf-8") as lines:
        for line in lines:
            if '"eval"' not in line:  # most lines are steps
                continue
            record = json.loads(line)
            loss, bpb = record.get("val_loss"), record.get("val_bpb")
            if isinstance(loss, (int, float)) and math.isfinite(loss):
                bpb = bpb if isinstance(bpb, (int, float)) else None
                scores.append(Score(step=record["step"], loss=loss, bpb=bpb))
    return scores


def run_summary(
    *,
    folder: Path,
    data: str,
    val_source: str,  # val, train or none: the text of the evaluations
    final: Score | None,  # None: nothing could be scored
    start: Score | None,
    best: Score | None,
    counting_bpb: float | None = None,  # of the counted n-grams on the same text
    final_loss: float | None = None,  # of the last training steps, where there is no evaluation
) -> list[str]:
    """Return four lines: the result, the curve, how to sample, how to go on."""
    run = shlex.quote(str(folder))
    return [
        _result(val_source, final, start, best, counting_bpb, final_loss),
        f"loss curve: {folder / 'loss.svg'}",
        f"write text: nanochat sample --checkpoint {run}",
        f"train on: nanochat train {shlex.quote(data)} --init-from {run}",
    ]


def _result(
    val_source: str,
    final: Score | None,
    start: Score | None,
    best: Score | None,
    counting_bpb: float | None,
    final_loss: float | None,
) -> str:
    if final is None:
        if final_loss is None:
            return "no validation text and no steps"
        return f"training loss {final_loss:.4f} nats per token (no validation text)"
    name = "validation" if val_source == "val" else "training text"
    compared = []
    if counting_bpb is not None:
        compared.append(f"counting: {counting_bpb:.3f}")
    if start is not None and start.step < final.step:
        compared.append(f"before training: {_value(start, final)}")
    unit = "nats per token" if final.bpb is None else "bits per byte"
    line = f"{name} {_value(final, final)} {unit}"
    if compared:
        line += f" ({', '.join(compared)})"
    if best is not None and best.step < final.step and best.loss < final.loss:
        line += f"; best at step {best.step}"
        if float(_value(best, final)) < float(_value(final, final)):  # in this unit too
            line += f": {_value(best, final)}"
    elif final.step:
        line += f"; best at the last step, {final.step}"
    return line


def _value(score: Score, final: Score) -> str:
    """Return the figure in the unit of the final one."""
    value = score.loss if final.bpb is None or score.bpb is None else score.bpb
    return f"{value:.3f}"
