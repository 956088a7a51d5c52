"""microgpt.py as the reference: unmodified, with nanochat.Value as its class, or recorded.

Works for any script with the names docs, uchars, state_dict, loss, step and num_steps; recorded()
works for the final gist. Leaves out other implementations (microgpt_ports.py) and our engine
(microgpt_engine.py).
"""

from __future__ import annotations

import ast
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")

# The first statement of each part of a step, by its text. `print` ends the last part.
PARTS = {"keys, values =": "forward", "loss.backward()": "backward", "lr_t =": "update"}
RECORDED_PARTS = {"lr_t =": "step"}

_STEP = "program.step(tokens[:n + 1], lr=lr_t, beta1=beta1, beta2=beta2, eps=eps_adam)"
# The changes of docs/microgpt.md outside the loop. Each text occurs once in the script.
_CHANGED = {
    "[[Value(random.gauss(0, std)) for _ in range(nin)] for _ in range(nout)]": (
        "Matrix([[random.gauss(0, std) for _ in range(nin)] for _ in range(nout)])"
    ),
    "max_val = max(val.data for val in logits)": "max_val = detached_max(logits)",
    "-probs[target_id].log()": "-select(probs, target_id).log()",
    "{loss.data:.4f}": "{loss:.4f}",
}


def variant(source: str, *, ours: bool = False, steps: int | None = None) -> str:
    """Return the script with its class Value (`ours`) or its num_steps (`steps`) replaced."""
    lines = source.encode().splitlines(keepends=True)
    # From the last statement to the first: an edit keeps the numbers of the lines before it.
    for node in reversed(ast.parse(source).body):
        if ours and isinstance(node, ast.ClassDef) and node.name == "Value":
            lines[node.lineno - 1 : node.end_lineno] = [b"from nanochat import Value\n"]
        elif steps is not None and _assigns(node, "num_steps"):
            assert isinstance(node, ast.Assign)
            line, number = lines[node.lineno - 1], node.value
            assert number.end_lineno == node.lineno  # one line
            end = line[number.end_col_offset :]
            lines[node.lineno - 1] = line[: number.col_offset] + str(steps).encode() + end
    return b"".join(lines).decode()


def recorded(source: str) -> str:
    """Return the final gist with the changed lines of docs/microgpt.md.

    Its forward pass becomes a function that nanochat.compile records, and program.step replaces
    backward and Adam.
    """
    source = variant(source, ours=True).replace(
        "from nanochat import Value\n",
        "from nanochat import Matrix, Value, compile, detached_max, select\n",
    )
    for old, new in _CHANGED.items():
        if source.count(old) != 1:
            raise SystemExit(f"--reference must be the final gist, with one {old!r}")
        source = source.replace(old, new)
    loop = _training_loop(ast.parse(source))
    starts = {ast.unparse(node).split("\n")[0]: node.lineno - 1 for node in loop.body}
    first = {head: line for head in ("keys, values =", "loss = ", "lr_t =", "for i, p in", "print(")
             for text, line in starts.items() if text.startswith(head)}  # fmt: skip
    lines = source.splitlines(keepends=True)
    return "".join([
        *lines[: loop.lineno - 1],
        "def document_losses(tokens):\n    n = len(tokens) - 1\n",
        *lines[first["keys, values ="] : first["loss = "]],
        "    return losses\n",
        "program = compile(document_losses, state_dict, tokens=block_size + 1)\n",
        *lines[loop.lineno - 1 : first["keys, values ="]],
        *lines[first["lr_t ="] : first["for i, p in"]],
        f"    loss = {_STEP}\n",
        *lines[first["print("] :],
    ])  # fmt: skip


def _training_loop(tree: ast.Module) -> ast.For:
    return next(n for n in tree.body if isinstance(n, ast.For) and ast.unparse(n.target) == "step")


def _assigns(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name


def mark(loop: ast.For, parts: Mapping[str, str]) -> None:
    """Call `clock(part)` before the statements of the loop that start with the given texts."""
    body: list[ast.stmt] = []
    missing = dict(parts)
    for statement in loop.body:
        text = ast.unparse(statement)
        for start in [start for start in missing if text.startswith(start)]:
            call = ast.parse(f"clock({missing.pop(start)!r})").body[0]
            body.append(ast.copy_location(call, statement))
        body.append(statement)
    if missing:
        raise SystemExit(f"--reference must have loop statements that start with {list(missing)}")
    loop.body = body


class PartClock:
    """Seconds of each part of each step. `clock("forward")` starts a part and ends the last one."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._running: str | None = None
        self._since = 0.0

    def __call__(self, part: str | None) -> None:
        now = time.perf_counter()
        if self._running is not None:
            self.seconds.setdefault(self._running, []).append(now - self._since)
        self._running, self._since = part, time.perf_counter()

    def step_seconds(self) -> list[float]:
        """Return the sum of the parts of each step."""
        return [sum(parts) for parts in zip(*self.seconds.values(), strict=True)]

    def milliseconds(self) -> dict[str, float]:
        """Return the mean of each part over its steps, and the sums of the parts."""
        parts = {part: 1e3 * statistics.fmean(spent) for part, spent in self.seconds.items()}
        both = parts["forward"] + parts["backward"]
        return {**parts, "forward + backward": both, "step": sum(parts.values())}


def compare_parts(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Compare two sides by their rounds of `milliseconds()`: best, median and theirs / ours."""
    record: dict[str, Any] = {"ms": {}, "ratio": {}}
    for part in next(iter(runs.values()))[0]:
        times = {side: [run[part] for run in rounds] for side, rounds in runs.items()}
        record["ms"][part] = {
            side: {"best": min(ms), "median": statistics.median(ms)} for side, ms in times.items()
        }
        theirs, ours = record["ms"][part].values()
        ratio = record["ratio"][part] = {how: theirs[how] / ours[how] for how in theirs}
        print(
            f"  {part:20} {theirs['best']:8.2f} ms ({theirs['median']:.2f}) / {ours['best']:6.3f} "
            f"ms ({ours['median']:.3f}) = {ratio['best']:.1f} ({ratio['median']:.1f})"
        )
    return record


@dataclass
class Reference:
    """The documents, weights, losses and times of one run of the reference."""

    documents: list[str] = field(default_factory=list)
    characters: list[str] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)  # initial
    final_weights: dict[str, np.ndarray] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    clock: PartClock = field(default_factory=PartClock)


class _Enough(Exception):
    """Ends the reference after the last requested step."""


def run_reference(
    source: str,
    names: Path,
    steps: int,
    seed: int = 42,
    ours: bool = False,
    parts: Mapping[str, str] = PARTS,
) -> Reference:
    """Execute the script for at most `steps` steps, timed. Its `print` is the instrumentation."""
    tree = ast.parse(variant(source, ours=ours))
    mark(_training_loop(tree), parts)
    seen = Reference()

    def state() -> dict[str, np.ndarray]:
        return {
            name: np.array([[p.data for p in row] for row in matrix])
            for name, matrix in space["state_dict"].items()
        }

    def watch(text: str, *_: Any, **__: Any) -> None:
        if text.startswith("num params"):
            seen.documents, seen.characters = list(space["docs"]), list(space["uchars"])
            seen.weights = state()
        elif text.startswith("step"):
            seen.clock(None)
            loss = space["loss"]
            seen.losses.append(loss if isinstance(loss, float) else loss.data)
            if len(seen.losses) == steps:
                raise _Enough

    space: dict[str, Any] = {"__name__": "reference", "print": watch, "clock": seen.clock}
    with _folder_with(names), _seeded(seed), suppress(_Enough):
        exec(compile(tree, "reference", "exec"), space)
    seen.final_weights = state()
    return seen


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return the result of a call in a new interpreter, whose garbage collector starts empty."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run_script(text: str, names: Path) -> tuple[float, str]:
    """Run the script as a process; return its seconds and its stdout."""
    with _folder_with(names):
        Path("script.py").write_text(text, encoding="utf-8")
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "script.py"], stdout=subprocess.PIPE, check=True)
        seconds = time.perf_counter() - started
    return seconds, done.stdout.decode()


@contextmanager
def _folder_with(names: Path) -> Iterator[None]:
    """Change to a temporary working folder that contains the corpus as input.txt."""
    previous = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(names, Path(folder) / "input.txt")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(previous)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # The script seeds the module with a constant; replacing the function changes the seed.
    set_seed = random.seed
    random.seed = lambda *_: set_seed(seed)  # type: ignore[assignment]
    try:
        yield
    finally:
        random.seed = set_seed  # type: ignore[assignment]
