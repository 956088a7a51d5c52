"""When a run evaluates and when it saves: a pure function of the number of finished steps."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cadence"]


@dataclass(frozen=True)
class Cadence:
    """Asked with the number of finished steps: 0 before the first, `steps` at the end."""

    steps: int
    eval_every: int  # 0: only at the start and the end
    checkpoint_every: int  # 0: at each evaluation but the first

    def evaluates(self, step: int) -> bool:
        return step in (0, self.steps) or (self.eval_every > 0 and step % self.eval_every == 0)

    def checkpoints(self, step: int) -> bool:
        """Always at the end. Never at 0 otherwise: the initial weights follow from the seed."""
        if step in (0, self.steps):
            return step == self.steps
        if self.checkpoint_every > 0:
            return step % self.checkpoint_every == 0
        return self.evaluates(step)
