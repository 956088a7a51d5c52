"""The one training loop, through a third engine that shares no code with the two real ones."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
from training.toy_engine import ToyEngine, ToyStep

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch, evaluation_batches, make_batcher
from nanochat.data.counts import bigram_optimum, transition_counts
from nanochat.data.documents import encode_documents
from nanochat.data.tokenizer import BOS, build_tokenizer
from nanochat.errors import MemoryDrift, NonFiniteStep, OutputError, RunInterrupted
from nanochat.model.parameters import GROUPS
from nanochat.model.state import TrainerState
from nanochat.training import guards, loop
from nanochat.training.average import averaged_weights
from nanochat.training.engine import Engine, EngineState, StepMetrics, StepSettings
from nanochat.training.metrics import JsonlWriter
from nanochat.training.saving import Best
from nanochat.training.schedule import lr_multiplier

NAMES = ["anna", "bob", "carl", "dora", "emma", "fred"]
TOKENIZER = build_tokenizer("char", NAMES)
DOCUMENTS = encode_documents(TOKENIZER, NAMES)


def make_config(**changes) -> TrainConfig:
    options = {
        "mode": "scalar", "model_kind": "bigram", "steps": 6, "eval_every": 2, "batch_size": 2,
        "block_size": 8, "batching": "packed", "lr": 0.05, "memory_drift": 0.0,
    }  # fmt: skip
    return TrainConfig(**{**options, **changes})


@dataclass
class Recorded:
    """A run of the loop in which everything that happens is written down, in order."""

    config: TrainConfig
    folder: object
    poison_step: int | None = None
    start: TrainerState | None = None
    load: object = None
    stop_at: int | None = None
    save_s: float = 0.0
    events: list[tuple] = field(default_factory=list)
    saved: dict = field(default_factory=dict)  # by step: (TrainerState, EngineState)
    best: dict = field(default_factory=dict)  # by step, of the states that were saved as the best
    reports: list[loop.EvalMetrics] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self):
        self.engine = ToyEngine(self.config, TOKENIZER.vocab_size, poison_step=self.poison_step)
        if self.load is not None:
            self.engine.load_state_dict(self.load)
        self.begun = self.start.step if self.start else 0

    # the engine, recorded
    mode, backend, device = "toy", "numpy", "cpu"

    def step(self, microbatches, settings):
        self.begun += 1
        number = self.begun
        self.events.append(("begin", number))
        self.now += 10.0
        result = self.engine.step(microbatches, settings)
        recorded = self

        class Result:
            def read(self) -> StepMetrics:
                recorded.events.append(("read", number))
                return result.read()

        return Result()

    def notes(self):
        return ()

    def token_losses(self, batch: Batch):
        if self.events[-1:] != [("score", self.begun)]:
            self.events.append(("score", self.begun))
        self.now += 100.0
        return self.engine.token_losses(batch)

    def averaged(self):
        return self.engine.averaged()

    def open_decoder(self, prompts):
        return self.engine.open_decoder(prompts)

    def state_dict(self):
        return self.engine.state_dict()

    def load_state_dict(self, state):
        self.engine.load_state_dict(state)

    # the observer
    def stepped(self, step, loss, tokens_per_s):
        self.events.append(("stepped", step))
        self.tokens_per_s = tokens_per_s

    def evaluated(self, metrics):
        self.reports.append(metrics)
        self.events.append(("evaluated", metrics.step))

    def save(self, trainer: TrainerState, state: EngineState, best: Best | None) -> str:
        self.events.append(("save", trainer.step))
        self.now += self.save_s
        self.saved[trainer.step] = (trainer, state)
        if best is not None:
            self.best[best.step] = (best.loss, state)
        return f"checkpoint-{trainer.step}"

    def stop(self) -> bool:
        return self.stop_at is not None and self.begun >= self.stop_at

    def run(self, world=1):
        config = self.config
        batcher = make_batcher(
            config.batching, DOCUMENTS, batch_size=config.batch_size,
            block_size=config.block_size, grad_accum=config.grad_accum, seed=config.seed,
        )  # fmt: skip
        log = JsonlWriter(self.folder / "metrics.jsonl")
        if self.start:
            log.truncate(self.start.metrics_length)
        engine: Engine = self
        try:
            return loop.train(
                engine, config, batcher, self.evaluation_set(), TOKENIZER.token_bytes,
                log=log, save=self.save, observer=self, start=self.start, stop=self.stop, world=world, clock=lambda: self.now,
                last_checkpoint=f"checkpoint-{self.start.step}" if self.start else None,
            )  # fmt: skip
        finally:
            log.close()

    def evaluation_set(self):
        return evaluation_batches(DOCUMENTS, batch_size=2, block_size=self.config.block_size)

    def of(self, *kinds):
        return [event for event in self.events if event[0] in kinds]

    @property
    def log(self):
        return [
            json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()
        ]


@pytest.fixture
def recorded_run(tmp_path):
    def make(start=None, load=None, stop_at=None, poison_step=None, folder="run", save_s=0.0,
             **changes):  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        return Recorded(
            make_config(**changes), tmp_path / folder, poison_step=poison_step, start=start,
            load=load, stop_at=stop_at, save_s=save_s,
        )  # fmt: skip

    return make


def log_of(recorded):
    """The log without the seconds of the steps, which say when a step was read."""
    for record in (log := recorded.log):
        if record["kind"] == "step":
            del record["elapsed_s"]
    return log


def table(recorded) -> bytes:
    return recorded.engine.table.tobytes()


# ---------------------------------------------------------------------------------- order of events


def test_at_a_pause_what_is_in_flight_is_read_then_scored_then_saved(recorded_run):
    run = recorded_run(steps=4, eval_every=2)
    run.run()
    assert run.events == [
        ("score", 0), ("evaluated", 0),
        ("begin", 1), ("begin", 2), ("read", 1), ("stepped", 1),
        ("read", 2), ("stepped", 2), ("score", 2), ("evaluated", 2), ("save", 2),
        ("begin", 3), ("begin", 4), ("read", 3), ("stepped", 3),
        ("read", 4), ("stepped", 4), ("score", 4), ("evaluated", 4), ("save", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("eval_every", [0, 1, 3, 7])
@pytest.mark.parametrize("checkpoint_every", [0, 1, 2, 5])
def test_saves_and_evaluations_come_when_the_options_say(
    recorded_run, eval_every, checkpoint_every
):
    run = recorded_run(steps=7, eval_every=eval_every, checkpoint_every=checkpoint_every)
    run.run()
    evaluations = {0, 7} | ({s for s in range(8) if s % eval_every == 0} if eval_every else set())
    every = checkpoint_every or eval_every
    expected, on_disk = [], set()
    for step in range(1, 8):
        if step == 7 or (every and step % every == 0):
            # The loss falls all the time, so the last evaluation so far is the best one.
            best = max(s for s in evaluations if s <= step)
            expected += [s for s in sorted({best, step}) if s not in on_disk]
            on_disk |= {best, step}
    assert [s for _, s in run.of("evaluated")] == sorted(evaluations)
    assert [s for _, s in run.of("save")] == expected
    assert [r["step"] for r in run.log if r["kind"] == "eval"] == sorted(evaluations)


def test_a_step_is_read_once_and_not_before_the_next_one_has_begun_unless_the_run_pauses(
    recorded_run,
):
    run = recorded_run(steps=40, eval_every=15, checkpoint_every=8)
    run.run()
    assert [s for _, s in run.of("read")] == list(range(1, 41))
    pauses = {s for s in range(41) if s % 15 == 0 or s % 8 == 0} | {40}
    for step in range(1, 41):
        read, begun = run.events.index(("read", step)), ("begin", step + 1)
        if step not in pauses:
            assert run.events.index(begun) < read
            later = ("begin", step + 2)
            assert later not in run.events or read < run.events.index(later)
        elif step < 40:
            assert read < run.events.index(begun)


def test_no_steps_evaluate_once_and_save_the_initial_weights(recorded_run):
    run = recorded_run(steps=0)
    result = run.run()
    assert run.events == [("score", 0), ("evaluated", 0), ("save", 0)]
    assert (result.steps, result.tokens, result.elapsed_s) == (0, 0, 0.0)
    assert result.final_loss is None and result.mean_loss_last_50 is None


# ------------------------------------------------------------------------------------------ figures


def test_time_is_that_of_the_steps_alone(recorded_run):
    run = recorded_run(steps=6, eval_every=1, checkpoint_every=1, save_s=1000.0)
    result = run.run()
    assert result.elapsed_s == 60.0
    assert run.now > 6000.0
    assert run.tokens_per_s == pytest.approx(result.tokens / 60.0)
    assert run.saved[4][0].elapsed_s == 40.0


@pytest.mark.parametrize("batching", ["windows", "packed", "documents"])
@pytest.mark.parametrize("grad_accum", [1, 3])
def test_every_target_of_every_step_is_counted_once(recorded_run, batching, grad_accum):
    run = recorded_run(steps=9, batching=batching, grad_accum=grad_accum)
    result = run.run()
    batcher = make_batcher(
        batching, DOCUMENTS, batch_size=2, block_size=8, grad_accum=grad_accum, seed=1337
    )
    counted = sum(int((b.targets >= 0).sum()) for s in range(9) for b in batcher.step(s))
    assert result.tokens == counted
    assert run.saved[9][0].tokens == counted


def test_the_last_fifty_losses_are_kept_and_averaged(recorded_run):
    run = recorded_run(steps=70, eval_every=0, checkpoint_every=60)
    result = run.run()
    losses = [r["loss"] for r in run.log if r["kind"] == "step"]
    assert len(losses) == 70
    assert result.final_loss == losses[-1]
    assert result.mean_loss_last_50 == pytest.approx(math.fsum(losses[-50:]) / 50, rel=1e-15)
    assert run.saved[60][0].last_losses == losses[10:60]


def test_an_evaluation_is_the_sum_over_all_batches(recorded_run):
    run = recorded_run(steps=3)
    result = run.run()
    pairs = [
        (nats, target)
        for batch in run.evaluation_set()
        for nats, target in zip(
            run.engine.token_losses(batch).flat, batch.targets.flat, strict=True
        )
        if target != IGNORE
    ]
    nats = math.fsum(nats for nats, _ in pairs)
    with_bytes = math.fsum(nats for nats, target in pairs if target != BOS)
    n_bytes = sum(len(name) for name in NAMES)  # ASCII
    assert result.evaluation.loss == pytest.approx(nats / len(pairs), rel=1e-15)
    assert result.evaluation.bpb == pytest.approx(with_bytes / math.log(2) / n_bytes, rel=1e-15)
    nothing = loop.evaluate(run.engine, [], TOKENIZER.token_bytes, 3)
    assert nothing == loop.EvalMetrics(step=3, loss=None, bpb=None)


@pytest.mark.parametrize("schedule", ["linear", "sqrt", "cosine", "constant"])
def test_each_step_has_the_settings_of_the_schedule(schedule):
    decay = {} if schedule == "constant" else {"final_lr_frac": 0.1}
    config = make_config(steps=10, lr_schedule=schedule, warmup_ratio=0.3, **decay)
    for step in range(10):
        settings = loop.step_settings(config, step)
        multiplier = lr_multiplier(
            schedule, step, 10, warmup_ratio=0.3, warmdown_ratio=0.5, final_lr_frac=0.1
        )
        assert settings == StepSettings(lr=dict.fromkeys(GROUPS, config.lr * multiplier))


def test_the_log_has_loss_gradient_norm_rates_tokens_and_seconds_of_each_step(recorded_run):
    run = recorded_run(steps=4, matrix_lr=0.5, head_lr=0.25, optimizer="adamw")
    run.run()
    reference = ToyEngine(run.config, TOKENIZER.vocab_size)
    batcher = make_batcher("packed", DOCUMENTS, batch_size=2, block_size=8, seed=1337)
    expected, tokens = [], 0
    for step in range(4):
        settings = loop.step_settings(run.config, step)
        metrics = reference.step(batcher.step(step), settings).read()
        tokens += batcher.step(step)[0].global_targets
        expected.append(
            {"kind": "step", "step": step + 1, "loss": metrics.loss,
             "grad_norm": metrics.grad_norm, "lr": settings.lr["embedding"],
             "matrix_lr": settings.lr["matrix"], "head_lr": settings.lr["head"], "tokens": tokens}
        )  # fmt: skip
    steps = [r for r in run.log if r["kind"] == "step"]
    # The clock of this run counts 10 s per step. A step is read when the next one has begun.
    assert [r.pop("elapsed_s") for r in steps] == [20.0, 20.0, 40.0, 40.0]
    assert steps == expected
    assert table(run) == reference.table.tobytes()


# ----------------------------------------------------------------------- stopping, resuming, guards


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", range(7))
def test_a_stopped_loop_saves_and_a_resumed_one_ends_with_the_same_bits(
    recorded_run, step, optimizer
):
    whole = recorded_run(folder="whole", optimizer=optimizer)
    result = whole.run()
    cut = recorded_run(folder="cut", stop_at=step, optimizer=optimizer)
    with pytest.raises(RunInterrupted) as caught:
        cut.run()
    assert str(caught.value) == f"stopped after step {step}; saved checkpoint-{step}"
    assert cut.events[-1] == ("save", step)
    trainer, state = cut.saved[step]
    resumed = recorded_run(folder="cut", start=trainer, load=state, optimizer=optimizer)
    again = resumed.run()
    # A resume repeats the evaluation of its first step, which may be the best one.
    assert ("save", step) not in resumed.events or step in resumed.best
    assert table(resumed) == table(whole)
    assert log_of(cut) == log_of(whole)
    assert again == result


def test_one_of_several_processes_never_stops_alone_but_sends_its_request(recorded_run):
    run = recorded_run(stop_at=2)
    asked, step = [], run.engine.step
    run.engine.step = lambda batches, settings: (
        asked.append(settings.stop) or step(batches, settings)
    )
    assert run.run(world=2).steps == 6
    assert asked == [False, False, True, True, True, True]


@pytest.mark.parametrize(("told_at", "stopped_after"), [(1, 2), (2, 2), (3, 4), (4, 4), (6, 6)])
def test_several_processes_stop_where_the_step_that_says_so_is_read(
    recorded_run, told_at, stopped_after
):
    """Step 3 is read after step 4 has begun; steps 2, 4 and 6 are read before an evaluation."""
    run = recorded_run()
    step = run.engine.step

    def told(batches, settings):
        metrics = step(batches, settings).read()
        return ToyStep(dataclasses.replace(metrics, stop=run.begun == told_at))

    run.engine.step = told
    with pytest.raises(RunInterrupted, match=f"^stopped after step {stopped_after}; saved"):
        run.run(world=2)
    assert run.events[-1] == ("save", stopped_after)


def test_a_loop_stopped_where_it_resumed_names_the_checkpoint_it_came_from(recorded_run):
    cut = recorded_run(stop_at=3)
    with pytest.raises(RunInterrupted):
        cut.run()
    trainer, state = cut.saved[3]
    again = recorded_run(start=trainer, load=state, stop_at=0)
    with pytest.raises(RunInterrupted, match="^stopped after step 3; saved checkpoint-3$"):
        again.run()
    assert again.events == []


@pytest.mark.parametrize("poison_step", range(1, 7))
@pytest.mark.parametrize("eval_every", [0, 1, 2])
def test_a_step_that_is_not_finite_stops_the_loop_before_its_update(
    recorded_run, poison_step, eval_every
):
    run = recorded_run(poison_step=poison_step, eval_every=eval_every)
    with pytest.raises(NonFiniteStep) as caught:
        run.run()
    saves = [step for _, step in run.of("save")]
    last = f"checkpoint-{saves[-1]}" if saves else "none"
    assert str(caught.value) == (
        f"step {poison_step}: loss is nan; weights are those after step {poison_step - 1}; last"
        f" good checkpoint: {last}; lower lr or set grad_clip"
    )
    assert all(step < poison_step for step in saves)
    good = recorded_run(folder="good", stop_at=poison_step - 1)
    with pytest.raises(RunInterrupted):
        good.run()
    assert table(run) == table(good)
    assert [r["step"] for r in run.log if r["kind"] == "step"] == list(range(1, poison_step))


def with_losses_from(run, step, loss):
    """Let every batch that is scored after `step` steps have this loss."""
    token_losses = run.engine.token_losses

    def poisoned(batch):
        losses = token_losses(batch)
        return losses if run.begun < step else np.full_like(losses, loss)

    run.engine.token_losses = poisoned
    return run


BAD_LOSSES = [
    (math.nan, "is nan"),
    (math.inf, "is inf"),
    (1e15, "must be at most 2484.91, a thousand times that of guessing, got 1e+15"),
]


@pytest.mark.parametrize(("loss", "problem"), BAD_LOSSES)
def test_weights_whose_evaluation_fails_are_never_saved(recorded_run, loss, problem):
    """Also after the last update, which no step follows."""
    run = with_losses_from(recorded_run(steps=6, eval_every=2, save_s=1e6), 6, loss)
    assert TOKENIZER.vocab_size == 12
    with pytest.raises(NonFiniteStep) as caught:
        run.run()
    assert str(caught.value) == (
        f"after step 6: validation loss {problem}; last good checkpoint: checkpoint-4; lower lr or"
        " set grad_clip"
    )
    assert [step for _, step in run.of("save")] == [2, 4]
    assert [step for _, step in run.of("evaluated")] == [0, 2, 4]


@pytest.mark.parametrize(("loss", "problem"), BAD_LOSSES)
@pytest.mark.parametrize("validates", [True, False])
def test_weights_that_no_evaluation_has_scored_are_tried_on_the_next_batch_before_a_save(
    recorded_run, loss, problem, validates
):
    run = recorded_run(steps=6, eval_every=0, checkpoint_every=2)
    if not validates:
        run.evaluation_set = list
    with pytest.raises(NonFiniteStep) as caught:
        with_losses_from(run, 4, loss).run()
    assert str(caught.value) == (
        f"after step 4: training loss {problem}; last good checkpoint: checkpoint-2; lower lr or"
        " set grad_clip"
    )
    # The best of the evaluations is that of step 0.
    assert [step for _, step in run.of("save")] == ([0, 2] if validates else [2])


@pytest.mark.parametrize("eval_every", [0, 1, 2])
def test_a_state_that_no_loss_shows_to_be_bad_is_never_saved(recorded_run, eval_every):
    """An infinite second moment makes its updates 0: every loss stays finite."""
    run = recorded_run(steps=6, eval_every=eval_every, checkpoint_every=1)
    state_dict = run.engine.state_dict

    def poisoned():
        state = state_dict()
        if run.begun >= 3:
            next(iter(state.optimizer.values())).flat[0] = math.inf
        return state

    run.engine.state_dict = poisoned
    with pytest.raises(NonFiniteStep) as caught:
        run.run()
    assert re.fullmatch(
        r"after step 3: optimizer state (\S+) has a value that is inf; last good checkpoint:"
        r" checkpoint-2; lower lr or set grad_clip",
        str(caught.value),
    )
    assert max(step for _, step in run.of("save")) == 2


def test_a_run_that_is_asked_to_stop_saves_no_weights_without_a_finite_loss(recorded_run):
    run = with_losses_from(recorded_run(eval_every=0, stop_at=3), 3, math.nan)
    with pytest.raises(NonFiniteStep, match="^after step 3: training loss is nan; last good"):
        run.run()
    assert run.of("save") == [("save", 0)]  # the best one


def test_a_training_loss_that_no_step_lowers_again_ends_the_run(recorded_run):
    run = recorded_run(eval_every=0)
    step = run.engine.step

    def diverging(microbatches, settings):
        result = step(microbatches, settings)
        return ToyStep(StepMetrics(loss=1e15, grad_norm=1.0)) if run.begun == 4 else result

    run.engine.step = diverging
    with pytest.raises(NonFiniteStep, match="^step 4: loss must be at most 2484.91, a thousand"):
        run.run()
    assert [r["step"] for r in run.log if r["kind"] == "step"] == [1, 2, 3]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_stop_during_an_evaluation_breaks_it_off_and_a_resume_repeats_it(recorded_run, ema):
    whole = recorded_run(folder="whole", ema=ema)
    whole.run()
    cut = recorded_run(ema=ema)
    batches = len(cut.evaluation_set())
    assert batches > 1
    scored = []
    token_losses = cut.engine.token_losses

    def counted(batch):
        scored.append(cut.begun)
        return token_losses(batch)

    cut.engine.token_losses = counted
    cut.stop = lambda: scored.count(4) == 1
    with pytest.raises(RunInterrupted, match="^stopped after step 4; saved checkpoint-4$"):
        cut.run()
    # One batch of the evaluation, and the batch of the next step before the save.
    assert scored.count(4) == 2
    trainer, state = cut.saved[4]
    again = recorded_run(start=trainer, load=state, ema=ema)
    again.run()
    assert table(again) == table(whole)
    assert log_of(again) == log_of(whole)


def test_an_evaluation_of_several_processes_is_not_broken_off(recorded_run):
    run = recorded_run(steps=4, eval_every=2)
    run.stop = lambda: run.of("score") == [("score", 0)]
    run.run(world=2)
    assert [step for _, step in run.of("evaluated")] == [0, 2, 4]


def test_memory_is_looked_at_in_every_evaluation(recorded_run, monkeypatch):
    observed = []
    monkeypatch.setattr(loop.MemoryGuard, "observe", lambda self: observed.append(run.begun))
    run = recorded_run(steps=6, eval_every=2, checkpoint_every=1)
    run.run()
    assert observed == [0, 2, 4, 6]


def test_memory_that_grows_ends_the_run_with_its_checkpoint_saved(recorded_run, monkeypatch):
    resident = iter([1 << 30, 1 << 30, 3 << 30])
    monkeypatch.setattr(
        loop, "MemoryGuard", lambda ratio: guards.MemoryGuard(ratio, lambda: next(resident))
    )
    run = recorded_run(steps=6, eval_every=2, memory_drift=2.0)
    with pytest.raises(MemoryDrift):
        run.run()
    assert run.of("save") == [("save", 2), ("save", 4), ("save", 6)]


def test_a_save_that_fails_ends_the_loop_with_its_error(recorded_run):
    run = recorded_run()

    def full(trainer, state, best):
        raise OutputError("cannot write x: No space left on device")

    run.save = full
    with pytest.raises(OutputError, match="^cannot write x"):
        run.run()
    assert [r["step"] for r in run.log if r["kind"] == "step"] == [1, 2]


# ------------------------------------------------------------------------------- the best weights

# Overfits: few names are learned by heart at a high rate, others are scored.
OVERFIT = {"steps": 40, "eval_every": 2, "lr": 0.3, "lr_schedule": "constant", "batch_size": 6}
OTHERS = encode_documents(TOKENIZER, ["adam", "ebba", "nora"])


@pytest.fixture
def overfitting(recorded_run, monkeypatch):
    monkeypatch.setattr(
        Recorded,
        "evaluation_set",
        lambda self: evaluation_batches(OTHERS, batch_size=2, block_size=8),
    )

    def make(**changes):
        return recorded_run(**{**OVERFIT, **changes})

    return make


def evaluations(run):
    return {r["step"]: r["val_loss"] for r in run.log if r["kind"] == "eval"}


def untimed(result):
    evaluation = dataclasses.replace(result.evaluation, left_s=None)  # of one process
    return dataclasses.replace(result, evaluation=evaluation)


@pytest.mark.parametrize("ema", [0.0, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_the_evaluation_of_the_lowest_loss_and_its_state_is_saved(
    overfitting, seed, ema
):
    run = overfitting(seed=seed, ema=ema)
    result = run.run()
    losses = evaluations(run)
    lowest = min(losses, key=losses.get)
    assert 0 < lowest < 40  # it does overfit
    assert result.best == Best(lowest, losses[lowest])
    assert [m.step for m in run.reports if m.is_best][-1] == lowest
    step, (loss, state) = max(run.best.items())
    assert (step, loss) == (lowest, losses[lowest])
    scored = ToyEngine(run.config, TOKENIZER.vocab_size)
    scored.load_state_dict(EngineState(weights=averaged_weights(state), optimizer={}))
    again = loop.evaluate(scored, run.evaluation_set(), TOKENIZER.token_bytes, lowest)
    assert again.loss == losses[lowest]


def test_a_run_without_a_validation_part_keeps_its_last_step_as_the_best(recorded_run, monkeypatch):
    monkeypatch.setattr(Recorded, "evaluation_set", lambda self: [])
    run = recorded_run()
    result = run.run()
    assert result.best == Best(6, None)
    assert list(run.best) == [6]
    assert not any(m.is_best for m in run.reports)


def test_between_due_saves_the_best_state_waits_in_memory(overfitting):
    """A save takes 200 s here, of which at most a twentieth of the time may be spent."""
    run = overfitting(save_s=200.0, lr=0.05, steps=30, lr_schedule="linear")
    run.run()
    times = [step for _, step in run.of("save")]
    assert len(times) < 5
    losses = evaluations(run)
    for step in times:  # a checkpoint on disk implies that the best before it is on disk
        before = {s: loss for s, loss in losses.items() if s < step}
        lowest = min(before, key=before.get)
        assert lowest in times or losses[step] < before[lowest]
    assert min(losses, key=losses.get) in times


@pytest.mark.parametrize("ema", [0.0, 0.8])
@pytest.mark.parametrize("step", [0, 1, 7, 8, 20, 39, 40])
@pytest.mark.parametrize("patience", [0, 5])
def test_a_run_that_overfits_stopped_and_resumed_is_the_whole_run(overfitting, step, ema, patience):
    options = {"ema": ema, "patience": patience}
    whole = overfitting(folder="whole", **options)
    result = whole.run()
    cut = overfitting(folder="cut", stop_at=step, **options)
    if step > result.steps:
        assert untimed(cut.run()) == untimed(result)
        return
    with pytest.raises(RunInterrupted):
        cut.run()
    trainer, state = cut.saved[step]
    resumed = overfitting(folder="cut", start=trainer, load=state, **options)
    assert untimed(resumed.run()) == untimed(result)
    assert log_of(cut) == log_of(whole)
    best = {**cut.best, **resumed.best}[result.best.step]
    same = whole.best[result.best.step]
    assert best[0] == same[0]
    for name, array in same[1].optimizer.items():
        assert best[1].optimizer[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_stops_after_so_many_evaluations_without_a_lower_loss(overfitting, patience):
    whole = overfitting(folder="whole")
    assert not whole.run().stopped_early
    losses = evaluations(whole)
    run = overfitting(patience=patience)
    result = run.run()
    lowest, misses, end = math.inf, 0, None
    for step, loss in losses.items():
        misses = 0 if loss < lowest else misses + 1
        lowest = min(lowest, loss)
        if misses == patience:
            end = step
            break
    assert end is not None and end < 40
    assert (result.steps, result.stopped_early) == (end, True)
    assert run.events[-1] == ("save", end)
    assert evaluations(run) == {s: loss for s, loss in losses.items() if s <= end}


def test_a_step_that_is_not_finite_leaves_the_best_state_on_disk(overfitting):
    run = overfitting(poison_step=31, save_s=1e6)
    with pytest.raises(NonFiniteStep) as caught:
        run.run()
    losses = evaluations(run)
    lowest = min(losses, key=losses.get)
    assert list(run.best) == [lowest]
    assert f"last good checkpoint: checkpoint-{lowest};" in str(caught.value)


def test_an_evaluation_reports_the_training_up_to_it(recorded_run):
    run = recorded_run(steps=6, eval_every=4)
    run.run()
    losses = [r["loss"] for r in run.log if r["kind"] == "step"]
    tokens = [r["tokens"] for r in run.log if r["kind"] == "eval"]
    first, middle, last = run.reports
    assert (first.train_loss, first.tokens_per_s, first.elapsed_s, first.left_s) == (
        None, 0.0, 0.0, None,
    )  # fmt: skip
    assert middle.train_loss == pytest.approx(sum(losses[:4]) / 4)
    assert last.train_loss == pytest.approx(sum(losses[4:]) / 2)
    assert [r["elapsed_s"] for r in run.log if r["kind"] == "eval"] == [0.0, 40.0, 60.0]
    assert (middle.elapsed_s, last.elapsed_s) == (40.0, 60.0)
    assert middle.tokens_per_s == pytest.approx(tokens[1] / 40.0)
    assert tokens[2] == sum(
        b.global_targets
        for s in range(6)
        for b in make_batcher("packed", DOCUMENTS, batch_size=2, block_size=8, seed=1337).step(s)
    )
    # Four steps of 10 s and two evaluations of three batches of 100 s; two steps are left.
    batches = len(run.evaluation_set())
    assert middle.left_s == pytest.approx((40 + 2 * batches * 100) / 4 * 2)
    assert last.left_s == 0.0


# --------------------------------------------------------------------------------- it does train


def test_the_toy_engine_trains_to_the_closed_form_optimum_through_the_loop(recorded_run):
    run = recorded_run(
        steps=1500, eval_every=0, batching="documents", batch_size=len(NAMES), lr=0.1
    )
    result = run.run()
    optimum = bigram_optimum(transition_counts(DOCUMENTS, TOKENIZER.vocab_size))
    assert optimum <= result.evaluation.loss <= optimum + 0.002


def test_the_shared_layer_is_what_its_modules_name():
    assert loop.__all__ == [
        "EvalMetrics", "LoopResult", "Observer", "evaluate", "step_settings", "train",
    ]  # fmt: skip
