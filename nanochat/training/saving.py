"""Which states of a run are saved and when: the newest one, and the best one before it.

Writing a checkpoint takes longer than many steps of a small model: mostly forcing seven files to
disk and hashing them. An evaluation that improves therefore only copies the state in memory. The
copy is written before any later state is, at the latest at the end of the run. A checkpoint of step
s on disk so implies that the best of the evaluations before s is on disk too. A run that is killed
loses at most the steps since its last save, and repeats them bit-identically when it is resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nanochat.errors import NonFiniteStep
from nanochat.model.state import TrainerState
from nanochat.training.engine import Engine, EngineState
from nanochat.training.guards import check_finite_state
from nanochat.training.metrics import JsonlWriter, NullWriter

__all__ = ["Best", "Save", "Saver"]

SAVE_EVERY_S = 10.0  # between the saves at evaluations, at least
SAVE_SHARE = 0.05  # of the time, for these saves, at most


@dataclass(frozen=True, slots=True)
class Best:
    """The evaluation with the lowest validation loss."""

    step: int
    loss: float | None  # nats per target of the evaluation set; None: there is no validation


class Save(Protocol):
    """Writes a checkpoint and returns its name. `best` is given if it is the best so far."""

    def __call__(self, trainer: TrainerState, state: EngineState, best: Best | None) -> str: ...


class Saver:
    """Keeps the best state until it is saved, and the clock of the saves."""

    def __init__(
        self,
        save: Save,
        engine: Engine,
        log: JsonlWriter | NullWriter,
        clock: Callable[[], float],
        last_checkpoint: str | None,
    ) -> None:
        self._save, self._engine, self._log, self._clock = save, engine, log, clock
        self._pending: tuple[TrainerState, EngineState, Best] | None = None
        self._due_s = clock() + SAVE_EVERY_S
        self.last_checkpoint = last_checkpoint

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last save. It depends on the clock, so it may
        decide only what is on disk, never what is computed."""
        return self._clock() >= self._due_s

    def hold_best(self, trainer: TrainerState, best: Best) -> None:
        """Copy the engine's state, which is the best so far, in memory. Raises NonFiniteStep if a
        part of it is not finite."""
        self._pending = (trainer, self._state(trainer), best)

    def save(self, trainer: TrainerState) -> None:
        """Save the best state if it is not on disk, then the state of now. Raises NonFiniteStep if
        a part of it is not finite."""
        if self._pending is None or self._pending[0].step != trainer.step:
            self.save_best()
            self._write(trainer, self._state(trainer), None)
        self.save_best()

    def _state(self, trainer: TrainerState) -> EngineState:
        state = self._engine.state_dict()
        try:
            check_finite_state(state, trainer.step, self.last_checkpoint)
        except NonFiniteStep:
            if self._pending is None:
                raise
            self.save_best()  # the message names the last good checkpoint
            check_finite_state(state, trainer.step, self.last_checkpoint)
        return state

    def save_best(self) -> None:
        """Save the best state if it is not on disk."""
        if self._pending is not None:
            self._write(*self._pending)
            self._pending = None

    def _write(self, trainer: TrainerState, state: EngineState, best: Best | None) -> None:
        began = self._clock()
        self._log.sync()  # a checkpoint records the length of the log
        self.last_checkpoint = self._save(trainer, state, best)
        ended = self._clock()
        self._due_s = ended + max(SAVE_EVERY_S, (ended - began) / SAVE_SHARE)
