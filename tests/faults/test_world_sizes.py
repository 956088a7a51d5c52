"""A run that is stopped and resumed with as many processes ends with the same bits; with another
number, it takes the same rows in each step and has the same losses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import TEXT
from faults.commands import final_state, hidden_files
from tensor.ranks import free_port, start

STEPS = 16
ROWS = 4  # of each step, over all processes
COMMON = (
    "train", "--data=names.txt", "--documents=line", "--mode=tensor", "--preset=mini", "--n-embd=16",
    "--n-layer=1", "--n-head=2", "--block-size=8", "--threads=1", f"--steps={STEPS}",
    "--eval-every=5", "--checkpoint-every=0", "--num-samples=0", "--no-baseline", "--quiet",
)  # fmt: skip
KINDS = {
    "float64": ("--dtype=float64", 1e-12),
    "float32": ("--dtype=float32", 2e-5),
}


class Chain(NamedTuple):
    """Numbers of processes, and the step before which each part but the last is stopped."""

    worlds: Sequence[int]
    stops: Sequence[int]

    @property
    def name(self) -> str:
        return "-".join(map(str, self.worlds)) + "-at-" + "-".join(map(str, self.stops))


class Groups:
    """Runs parts of runs in groups of one or two processes; a group runs many parts."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        self.steps: dict[str, dict[int, list[str]]] = {}  # run → step → its rows
        self.stopped: dict[str, list[int]] = {}

    def words(self, out: str, world: int) -> list[str]:
        if (self.folder / out).exists():
            return ["train", "--resume", f"--out={out}", "--quiet"]
        return [*COMMON, KINDS[self.kind][0], f"--batch-size={ROWS // world}", f"--out={out}"]

    def run(self, world: int, parts: Sequence[tuple[str, int | None]]) -> None:
        """Run the next part of each run, by its folder, until it is stopped."""
        asked = json.dumps([(self.words(out, world), stop) for out, stop in parts])
        port = free_port()
        processes = [
            start("../faults/ranked_runs.py", rank, port, [asked], self.folder, world)
            for rank in range(world)
        ]
        outputs = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [0] * world, outputs
        by_rank = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
        for (out, stop), found in zip(parts, zip(*by_rank, strict=True), strict=True):
            self.note(out, stop, found)

    def note(self, out: str, stop: int | None, found: Sequence[dict[str, Any]]) -> None:
        err = found[0]["err"]
        assert all(each["code"] == found[0]["code"] for each in found), found
        last = STEPS
        if stop is None:
            assert (found[0]["code"], err) == (0, "")
        else:
            line = rf"stopped after step (\d+); saved {out}/checkpoints/step-\d+; resume .*\n"
            matched = re.fullmatch(line, err)
            assert matched, err
            last = int(matched[1])
            self.stopped.setdefault(out, []).append(last)
        taken = self.steps.setdefault(out, {})
        for step in found[0]["steps"]:
            if int(step) <= last:
                assert int(step) not in taken, f"step {step} twice"
                taken[int(step)] = sorted(row for each in found for row in each["steps"][step])

    def losses(self, out: str) -> list[float]:
        rows = map(json.loads, (self.folder / out / "metrics.jsonl").read_text().splitlines())
        return [row["loss"] for row in rows if row["kind"] == "step"]


def complaints(folder: Path, kind: str, chains: Sequence[Chain]) -> list[str]:
    """Run the chains and what nothing disturbs; return what differs."""
    groups = Groups(folder, kind)
    whole = {1: "whole-1", 2: "whole-2"}
    done = {chain.name: 0 for chain in chains}
    first = True
    while first or any(done[chain.name] < len(chain.worlds) for chain in chains):
        for world in (1, 2):
            parts: list[tuple[str, int | None]] = [(whole[world], None)] if first else []
            for chain in chains:
                index = done[chain.name]
                if (*chain.worlds, None)[index] == world:
                    parts.append((chain.name, (*chain.stops, None)[index]))
            if parts:
                groups.run(world, parts)
            for name, _ in parts:
                if name in done:
                    done[name] += 1
        first = False
    return [text for chain in chains for text in differences(groups, chain)]


def differences(groups: Groups, chain: Chain) -> list[str]:
    name, first = chain.name, f"whole-{chain.worlds[0]}"
    found = []
    if sorted(groups.steps[name]) != list(range(1, STEPS + 1)):
        found.append(f"{name}: steps {sorted(groups.steps[name])}")
    found += [
        f"{name}: other rows in step {step}"
        for step, rows in groups.steps[first].items()
        if len(rows) != ROWS or groups.steps[name].get(step) != rows
    ]
    tolerance = KINDS[groups.kind][1]
    expected = groups.losses(first)
    if not np.allclose(groups.losses(name), expected, rtol=tolerance, atol=0):
        found.append(f"{name}: losses {groups.losses(name)}, not {expected}")
    if len(set(chain.worlds)) == 1:
        state = final_state(groups.folder / name, STEPS)
        whole = final_state(groups.folder / first, STEPS)
        found += [f"{name}: other bits of {key}" for key in whole if state[key] != whole[key]]
    if hidden := hidden_files(groups.folder / name):
        found.append(f"{name}: left behind {hidden}")
    return found


def test_a_resume_with_another_number_of_processes_takes_the_same_rows(tmp_path: Path) -> None:
    chains = [Chain((2, 2), (7,)), Chain((2, 1), (6,)), Chain((1, 2), (9,))]
    assert complaints(tmp_path, "float64", chains) == []


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_resumes_at_any_step_with_any_number_of_processes_take_the_same_rows(
    tmp_path: Path, kind: str, tried: Callable[..., None]
) -> None:
    chains = [
        Chain(worlds, (stop,))
        for worlds in ((1, 1), (2, 2), (2, 1), (1, 2))
        for stop in range(1, STEPS - 1)
    ]
    chains += [
        Chain(worlds, stops)
        for worlds in ((2, 1, 2, 1), (1, 2, 1, 2), (2, 2, 1, 1), (2, 2, 2, 2))
        for stops in ((1, 4, 7), (3, 6, 9), (2, 7, 12), (5, 8, 11))
    ]
    assert complaints(tmp_path, kind, chains) == []
    tried(resumes=sum(len(chain.stops) for chain in chains))
