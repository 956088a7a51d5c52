"""Readers of files and the command line, on damaged input: one clear line, or harmless.

The long forms draw inputs by coverage, also for the C++ targets in tests/cpp/fuzz. They need atheris,
and NCLAB_FUZZERS must name the folder of the C++ targets, built with NCLAB_FUZZ=ON. What they have
found is in `kept` and in tests/cpp/fuzz/corpus.
"""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from faults.record import write_trials
from fuzz.long import CORPUS, GROUPS, kernel_inputs, reader_inputs
from fuzz.mutations import mutated
from fuzz.targets import Workplace

KEPT = Path(__file__).parent / "kept"
INPUTS, INPUTS_OF_COMMANDS = 250, 40  # per target; of those that run a command on a whole run
MOST_MORE_BYTES = 1 << 30
LONG_S = 600  # of each group and C++ target
FUZZERS = os.environ.get(
    "NCLAB_FUZZERS", "build/fuzz/tests/cpp/fuzz"
)  # before conftest.py removes it
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
    with closing(Workplace(tmp_path_factory.mktemp("fuzz"))) as workplace:
        yield workplace


def test_each_target_is_listed(workplace: Workplace) -> None:
    assert tuple(workplace.targets) == TARGETS
    assert {name for names in GROUPS.values() for name in names} == set(TARGETS)
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


@pytest.mark.long
@pytest.mark.parametrize("group", GROUPS)
def test_no_input_breaks_a_reader(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    names = GROUPS[group]
    inputs = [reader_inputs(name, LONG_S // len(names)) for name in names]
    assert min(inputs) > 0
    write_trials(f"test_no_input_breaks_a_reader[{group}]", {"inputs": sum(inputs)})


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_no_input_breaks_a_kernel_or_a_program(name: str) -> None:
    inputs = kernel_inputs(name, LONG_S, Path(FUZZERS))
    write_trials(f"test_no_input_breaks_a_kernel_or_a_program[{name}]", {"inputs": inputs})
