"""When a run evaluates and saves, and on how much text: pure functions, without a clock.

The same options and text give the same cadence on every machine and engine, so runs can be
repeated and resumed bit-identically.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanochat.config.option import AUTO

__all__ = ["Cadence", "evaluation_plan"]

EVALUATIONS = 20  # per run: enough to see where overfitting starts
# Scoring a token takes 0.25 to 0.36 of the time of training on it, on the CPU: pico 0.25 (scalar),
# mini 0.32, nano 0.31, small 0.36 (tensor). EVAL_SHARE keeps the largest of them below a tenth.
EVAL_SHARE = 0.08  # of the time of training, for all evaluations together
FORWARD_SHARE = 1 / 3
FEWEST_TOKENS = 4096  # of an evaluation set; fewer make the loss too uncertain


@dataclass(frozen=True)
class Cadence:
    """Takes the number of finished steps: 0 before the first, `steps` at the end."""

    steps: int | None  # None: not known before the end
    eval_every: int  # 0: only at the start and the end
    checkpoint_every: int  # 0: at each evaluation except the first

    def evaluates(self, step: int) -> bool:
        return step in (0, self.steps) or (self.eval_every > 0 and step % self.eval_every == 0)

    def checkpoints(self, step: int) -> bool:
        """True at the end. False at 0, because the initial weights follow from the seed."""
        if step in (0, self.steps):
            return step == self.steps
        if self.checkpoint_every > 0:
            return step % self.checkpoint_every == 0
        return self.evaluates(step)

    def next_event(self, step: int) -> float:
        """Return the first step after `step` at which the run evaluates, saves or ends; infinity
        if there is none that is known."""
        every = (self.eval_every, self.checkpoint_every)
        events: list[float] = [step - step % count + count for count in every if count > 0]
        return min([*events, math.inf if self.steps is None else self.steps])


def evaluation_plan(
    steps: int,
    step_tokens: int,  # targets per step, over all microbatches and processes
    val_tokens: int,  # targets of the whole validation part
    *,
    eval_every: int = AUTO,
    eval_tokens: int = AUTO,
) -> tuple[int, int]:
    """Return eval_every and eval_tokens with AUTO replaced; a value that is given stays.

    All evaluations of a run together score at most EVAL_SHARE / FORWARD_SHARE times the tokens
    trained on. A run is evaluated EVALUATIONS times after its start, or less often if it is too
    short for sets of FEWEST_TOKENS. The set is the whole validation part (0) if that fits.
    """
    most = EVAL_SHARE / FORWARD_SHARE * steps * step_tokens
    fewest = min(FEWEST_TOKENS, val_tokens)
    if eval_every == AUTO:
        size = fewest if eval_tokens == AUTO else min(eval_tokens or val_tokens, val_tokens)
        count = min(EVALUATIONS, int(most / size)) if size else EVALUATIONS
        eval_every = -(-steps // max(count, 1))
    if eval_tokens == AUTO:
        count = -(-steps // eval_every) if eval_every else 1
        eval_tokens = max(int(most / max(count, 1)), fewest)
        if eval_tokens >= val_tokens:
            eval_tokens = 0
    return eval_every, eval_tokens
