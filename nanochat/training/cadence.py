"""When a run evaluates and saves: pure functions of the number of finished steps."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cadence"]


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
