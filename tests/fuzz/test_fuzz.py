"""Readers of files and the command line, on damaged input: one clear line, or harmless.

The long form, `python -m fuzz.long`, draws inputs by coverage. What it found is in `kept`.
"""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.mutations import mutated
from fuzz.targets import Workplace

KEPT = Path(__file__).parent / "kept"
INPUTS, INPUTS_OF_COMMANDS = 250, 40  # per target; of those that run a command on a whole run
MOST_MORE_BYTES = 1 << 30
COMMANDS = (
    "metrics.jsonl",
    "result.json",
    "environment.json",
    "config.toml",
    "best",
    "lock",
    "text",
)
TARGETS = (
    "config", "config.json", "tokenizer.json", "data.json", "trainer.json", "weights.safetensors",
    "optimizer.safetensors", "manifest.json", "metrics.jsonl", "result.json", "environment.json",
    "config.toml", "best", "counts", "text", "tokenizer", "sources", "lock", "arguments",
)  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    before = Path.cwd()
    yield Workplace(tmp_path_factory.mktemp("fuzz"))
    os.chdir(before)


def test_each_target_is_listed(workplace: Workplace) -> None:
    assert tuple(workplace.targets) == TARGETS
    assert {path.parent.name for path in KEPT.glob("*/*")} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_input_is_refused_or_harmless(workplace: Workplace, name: str) -> None:
    target = workplace.targets[name]
    for seed in target.seeds:
        assert workplace.complaint(target, seed) is None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    draw = random.Random(name)
    kept = [path.read_bytes() for path in sorted((KEPT / name).glob("*"))]
    count = INPUTS_OF_COMMANDS if name in COMMANDS else INPUTS
    inputs = [*kept, *(mutated(draw, draw.choice(target.seeds)) for _ in range(count))]
    for content in inputs:
        found = workplace.complaint(target, content)
        assert found is None, f"{content!r:.3000}\n{found}"
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert more * 1024 < MOST_MORE_BYTES
