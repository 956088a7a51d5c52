"""NaN and infinities in the batch, a weight, a gradient or the optimizer's state stop a run before
they are saved.

The values are put in between two steps, by a patch of `Blocks.start`. Whatever they were, the
run ends with one line, all checkpoints are those of a run that nothing disturbed, and the run can be
resumed from the last one, with the same or a lower rate.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import Output, as_flags
from faults.commands import final_state, hidden_files, whole_checkpoints

from nanochat.training import blocks
from nanochat.training.engine import EngineState

STEPS = 6
COMMON: Mapping[str, Any] = {
    "data": "names.txt", "documents": "line", "block_size": 8, "batch_size": 2, "steps": STEPS,
    "eval_every": 2, "checkpoint_every": 1, "keep": "all", "lr": 0.02, "num_samples": 0, "seed": 3,
    "threads": 1, "baseline": False, "quiet": True,
}  # fmt: skip
GPT = {"preset": "microgpt", "n_head": 2, "n_embd": 4}
TENSOR = {"mode": "tensor", "n_layer": 1, "n_head": 2, "n_embd": 16, "preset": "mini"}
ENGINES: Mapping[str, Mapping[str, Any]] = {
    "program": {"mode": "scalar", **GPT},
    "program, step by step": {"mode": "scalar", **GPT, "ema": 0.9},
    "tape": {"mode": "scalar", **GPT, "numerics": "exact", "dtype": "float32"},
    "tensor": TENSOR,
    "tensor, muon": {**TENSOR, "optimizer": "muon", "ngram_order": 2},
    "tensor, torch": {**TENSOR, "loss": "torch", "optimizer": "sgd", "dtype": "float64"},
    # Bytes that the text lacks: no batch reads their embeddings, no loss shows them.
    "tensor, unread weights": {**TENSOR, "tokenizer": "byte", "tie_lm_head": False},
}
PLACES = ("batch", "weight", "gradient", "optimizer")
VALUES = (math.nan, math.inf, -math.inf)


class Fault(NamedTuple):
    place: str
    value: float
    step: int  # from 1
    seed: int  # of the index


def cases(seeds: range, steps: tuple[int, ...]) -> list[Fault]:
    product = itertools.product(PLACES, VALUES, steps, seeds)
    return [Fault(*each) for each in product]


def poison_state(engine: Any, fault: Fault, draw: random.Random) -> None:
    """Put the value into a weight or a moment, by the way in which a checkpoint is loaded."""
    state = engine.state_dict()
    weights, optimizer = dict(state.weights), dict(state.optimizer)
    arrays = weights if fault.place == "weight" else optimizer
    name = draw.choice(sorted(name for name in arrays if name != "step"))
    if fault.place == "weight" and engine.config.tokenizer == "byte":
        name = "wte"
        arrays[name][0] = fault.value  # the byte 0
    else:
        arrays[name].flat[draw.randrange(arrays[name].size)] = fault.value
    engine.load_state_dict(EngineState(weights=weights, optimizer=optimizer, share=state.share))


def poison_gradient(patch: pytest.MonkeyPatch, engine: Any, value: float, at: float) -> None:
    """Put the value into the next gradient, before its norm is taken."""

    def index(size: int) -> int:
        return int(at * size)

    if engine.mode == "tensor":
        step = engine.optimizer.step

        def poisoned_step(settings: Any) -> Any:
            gradients = engine.weights.gradients
            gradients[index(len(gradients))] = value
            return step(settings)

        patch.setattr(engine.optimizer, "step", poisoned_step)
    elif engine.backend == "cpp-tape":
        losses = engine._losses_by_row

        def poisoned_losses(batch: Any) -> Any:
            yield from losses(batch)
            matrix = next(iter(engine.matrices.values()))
            matrix.grads[index(matrix.grads.shape[0]), 0] = value

        patch.setattr(engine, "_losses_by_row", poisoned_losses)
    else:
        backward = engine._replay.backward

        def poisoned_backward(*words: Any, **options: Any) -> Any:
            found = backward(*words, **options)
            gradients = engine._replay.core.gradients
            gradients[index(len(gradients))] = value
            return found

        patch.setattr(engine._replay, "backward", poisoned_backward)


def poison_batch(patch: pytest.MonkeyPatch, batcher: Any, value: float) -> None:
    """Put the value into the numbers of the next batch: what counts say of the targets."""
    for name in ("step", "steps"):
        if not hasattr(batcher, name):
            continue
        original = getattr(batcher, name)

        def poisoned(*words: Any, original: Any = original) -> Any:
            found = original(*words)
            for batch in found if isinstance(found, (list, tuple)) else [found.batch]:
                batch.by_counts[...] = value
            return found

        patch.setattr(batcher, name, poisoned)


class Runs:
    """A run that nothing disturbs, and the same run with a fault."""

    def __init__(
        self, cli: Callable[..., Output], monkeypatch: pytest.MonkeyPatch, engine: str
    ) -> None:
        self.cli, self.monkeypatch = cli, monkeypatch
        self.options = {**COMMON, **ENGINES[engine]}
        self.engine = engine
        self.good: dict[bool, Path] = {}

    def words(self, *, counts: bool, out: str = "run") -> list[str]:
        options = {**self.options, **({"ngram_order": 2} if counts else {}), "out": out}
        return ["train", *as_flags(**options)]

    def undisturbed(self, *, counts: bool) -> Path:
        if counts not in self.good:
            path = Path(f"good-{counts}")
            done = self.cli(*self.words(counts=counts, out=str(path)))
            assert done.code == 0, done.err
            self.good[counts] = path
        return self.good[counts]

    def possible(self, fault: Fault) -> bool:
        if fault.place == "gradient":
            # A program that takes steps in blocks has its gradients in C++ alone.
            return self.engine != "program"
        if "unread" in self.engine:
            return fault.place == "weight"
        return True

    def complaints(self, fault: Fault) -> list[str]:
        """Return what is wrong with how the run ends; empty if nothing is."""
        counts = fault.place == "batch"
        good = self.undisturbed(counts=counts)
        run = Path("run")
        shutil.rmtree(run, ignore_errors=True)
        with self.monkeypatch.context() as patch:
            self.arm(patch, fault)
            done = self.cli(*self.words(counts=counts))
        found = []
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        if done.code != 1 or len(errors) != 1 or "Traceback" in done.err:
            return [f"exit code {done.code}: {done.err[-400:]!r}"]
        found += self.wrong_record(run, errors[0].removeprefix("error: "))
        found += self.wrong_checkpoints(run, good, fault, errors[0])
        if hidden := hidden_files(run):
            found.append(f"left behind: {hidden}")
        return found + self.wrong_resume(run, good, counts)

    def arm(self, patch: pytest.MonkeyPatch, fault: Fault) -> None:
        start, draw = blocks.Blocks.start, random.Random(fault.seed)

        def poisoned(self: blocks.Blocks, step: int, **options: Any) -> blocks.Block:
            with pytest.MonkeyPatch.context() as inner:
                if step + 1 == fault.step:
                    if fault.place == "batch":
                        poison_batch(inner, self._batcher, fault.value)
                    elif fault.place == "gradient":
                        poison_gradient(inner, self._engine, fault.value, draw.random())
                    else:
                        poison_state(self._engine, fault, draw)
                return start(self, step, **options)

        patch.setattr(blocks, "LARGEST_BLOCK", 1)
        patch.setattr(blocks.Blocks, "start", poisoned)

    def wrong_record(self, run: Path, message: str) -> list[str]:
        def refuse(constant: str) -> None:
            raise ValueError(f"{constant} is not JSON")

        try:
            record = json.loads((run / "nonfinite.json").read_text(), parse_constant=refuse)
        except (OSError, ValueError) as error:
            return [f"nonfinite.json: {error}"]
        return [] if record["message"] == message else [f"nonfinite.json: {record['message']}"]

    def wrong_checkpoints(self, run: Path, good: Path, fault: Fault, line: str) -> list[str]:
        whole, others = whole_checkpoints(run)
        found = [f"not whole: {others}"] if others else []
        last = str(run / "checkpoints" / whole[-1]) if whole else "none"
        if f"; last good checkpoint: {last}; " not in line:
            found.append(f"the last good checkpoint is {last}: {line}")
        if whole and int(whole[-1].removeprefix("step-")) >= fault.step:
            found.append(f"saved after step {fault.step}: {whole[-1]}")
        for name in whole:
            for file in ("weights.safetensors", "optimizer.safetensors"):
                path = f"checkpoints/{name}/{file}"
                if (run / path).read_bytes() != (good / path).read_bytes():
                    found.append(f"other bits of {name}/{file}")
        return found

    def wrong_resume(self, run: Path, good: Path, counts: bool) -> list[str]:
        """Resume with a lower rate in a copy, and as it was in the run itself."""
        if not (run / "checkpoints").is_dir() or not whole_checkpoints(run)[0]:
            done = self.cli(*self.words(counts=counts))
            return [] if done.code == 0 else [f"the next start: {done.err[-300:]}"]
        shutil.rmtree("lower", ignore_errors=True)
        shutil.copytree(run, "lower")
        found = []
        for out, words in (("lower", ["--lr=0.01"]), ("run", [])):
            done = self.cli("train", "--resume", "--quiet", f"--out={out}", *words)
            if done.code != 0:
                found.append(f"resume of {out}: {done.err[-300:]}")
            elif Path(out, "nonfinite.json").exists():
                found.append(f"resume of {out} leaves nonfinite.json")
        if found:
            return found
        weights = np.fromfile(Path("lower/checkpoints", f"step-{STEPS:06d}", "weights.safetensors"))
        assert weights.size
        state, expected = final_state(run, STEPS), final_state(good, STEPS)
        return [
            f"other bits of {key} after a resume" for key in expected if state[key] != expected[key]
        ]


def failures(runs: Runs, faults: list[Fault]) -> tuple[dict[Fault, list[str]], int]:
    chosen = [fault for fault in faults if runs.possible(fault)]
    assert chosen
    found = {fault: runs.complaints(fault) for fault in chosen}
    return {fault: complaints for fault, complaints in found.items() if complaints}, len(chosen)


@pytest.fixture(params=ENGINES)
def runs(
    request: pytest.FixtureRequest,
    cli: Callable[..., Output],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Runs:
    return Runs(cli, monkeypatch, request.param)


def test_some_values_that_are_not_finite_stop_a_run_before_they_are_saved(runs: Runs) -> None:
    draw = random.Random(0)
    faults = [f for f in cases(range(1), (1, 4, STEPS)) if runs.possible(f)]
    chosen = draw.sample(faults, 4) if len(faults) > 9 else faults[:3]
    assert failures(runs, chosen)[0] == {}


@pytest.mark.long
def test_any_value_that_is_not_finite_stops_a_run_before_it_is_saved(
    runs: Runs, tried: Callable[..., None]
) -> None:
    found, number = failures(runs, cases(range(3), (1, 2, 4, STEPS)))
    assert found == {}
    tried(values=number)
