"""The end of a run in lines for people: the result, the curve, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.training.log_records import figure, log_records

__all__ = ["Score", "run_summary", "scores_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One evaluation in the log."""

    step: int
    loss: float  # nats per token
    bpb: float | None  # bits per byte


def scores_of(metrics: Path) -> list[Score]:
    """Return the finite scores of the evaluations in a run's metrics.jsonl."""
    scores = []
    for record in log_records(metrics, "eval"):
        loss = figure(record["val_loss"])
        if loss is not None:
            bpb = figure(record.get("val_bpb"))
            scores.append(Score(step=record["step"], loss=loss, bpb=bpb))
    return scores


def run_summary(
    *,
    folder: Path,
    val_source: str,  # val, train or none: the text of the evaluations
    val_loss: float | None,  # nats per token
    val_bpb: float | None,  # bits per byte
    steps: int,
    evaluations: Sequence[Score],
    counting_bpb: float | None = None,  # of the counted n-grams on the same text
    train_loss: float | None = None,  # mean over the last steps
    way_on: str | None = None,  # the last line; None: more training
    enough: bool = False,  # more steps on this text would make the model worse
) -> list[str]:
    """Return four lines: the result, the curve, how to sample, how to go on."""
    run = shlex.quote(str(folder))
    best = _best_step(evaluations)
    on_more_text = enough or (best is not None and best < steps)
    if val_loss is not None:
        result = _result(val_source, val_loss, val_bpb, steps, evaluations, counting_bpb)
    else:
        loss = "" if train_loss is None else f"; training loss {train_loss:.3f} nats per token"
        result = f"no validation text{loss}"
    longer = (
        f"train on more text: nanochat train MORE.txt --init-from {run}"
        if on_more_text
        else f"train longer: nanochat train --init-from {run}"
    )
    return [
        result,
        f"loss curve: {folder / 'loss.svg'}",
        f"write text: nanochat sample {run}",
        way_on or longer,
    ]


def _best_step(evaluations: Sequence[Score]) -> int | None:
    return min(evaluations, key=lambda score: score.loss).step if evaluations else None


def _result(
    val_source: str,
    val_loss: float,
    val_bpb: float | None,
    steps: int,
    evaluations: Sequence[Score],
    counting_bpb: float | None,
) -> str:
    name = "training text" if val_source == "train" else "validation"
    in_bits = val_bpb is not None
    figure = f"{val_loss if val_bpb is None else val_bpb:.3f}"
    compared = [] if counting_bpb is None or not in_bits else [f"counting: {counting_bpb:.3f}"]
    start = evaluations[0] if evaluations and evaluations[0].step == 0 < steps else None
    before = None if start is None else start.bpb if in_bits else start.loss
    if before is not None:
        compared.append(f"before training: {before:.3f}")
    line = f"{name} {figure} {'bits per byte' if in_bits else 'nats per token'}"
    if compared:
        line += f" ({', '.join(compared)})"
    best = _best_step(evaluations)
    if steps and best is not None:
        line += f"; best at step {best} of {steps}"
    return line
