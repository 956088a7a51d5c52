"""micrograd compared with itself when nanochat.Value replaces its Value: the demo and the tests.

    python -m bench.scalar.micrograd --micrograd CHECKOUT [--steps N] [--rounds N]

The demo is the checkout's demo.ipynb (an MLP 2-16-16-1 on 100 points of two moons, full batch),
unchanged except for the number of steps; the network is the checkout's nn.py. The demo imports
make_moons of scikit-learn, which this module replaces by a NumPy function with the same draws.
micrograd keeps operands in a set, so its order of accumulation is undefined, and losses agree only
up to rounding.

micrograd's nodes form reference cycles, so most of its time goes to Python's garbage collector. The
demo is therefore timed with and without the collector, on both sides. Writes
results/scalar/micrograd.json.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np

import nanochat
from bench.command import command_parser
from bench.machine import write_result
from bench.scalar.microgpt_reference import PartClock, compare_parts, in_fresh_process, mark

PARTS = {
    "total_loss, acc =": "forward", "model.zero_grad()": "zero_grad",
    "total_loss.backward()": "backward", "learning_rate =": "update", "if k % 1": "print",
}  # fmt: skip
SIDES = ("micrograd", "nanochat")


def make_moons(n_samples: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return two half circles of shuffled, noisy points, from NumPy's global generator."""
    angles = np.linspace(0, np.pi, n_samples // 2)
    outer = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.concatenate([outer, [1.0, 0.5] - outer])
    labels = np.repeat([0, 1], n_samples // 2)
    order = np.arange(n_samples)
    np.random.shuffle(order)
    points, labels = points[order], labels[order]
    return points + np.random.normal(scale=noise, size=points.shape), labels


def load_module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def installed(checkout: Path, side: str) -> Iterator[None]:
    """Let `import micrograd` give the checkout's package, on our side with nanochat.Value."""
    names = ["sklearn", "sklearn.datasets", "micrograd", "micrograd.engine", "micrograd.nn"]
    modules = {name: ModuleType(name) for name in names}
    modules["sklearn.datasets"].__dict__.update(make_moons=make_moons, make_blobs=None)
    if side == "nanochat":
        modules["micrograd.engine"].__dict__["Value"] = nanochat.Value
    else:
        engine = checkout / "micrograd" / "engine.py"
        modules["micrograd.engine"] = load_module(engine, "micrograd.engine")
    sys.modules.update(modules)
    try:
        sys.modules["micrograd.nn"] = load_module(checkout / "micrograd" / "nn.py", "micrograd.nn")
        yield
    finally:
        for name in names:
            del sys.modules[name]


def demo_source(checkout: Path) -> str:
    cells = json.loads((checkout / "demo.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = [line for c in cells if c["cell_type"] == "code" for line in [*c["source"], "\n"]]
    return "".join(line for line in lines if not line.startswith("%"))


def run_demo(
    checkout: Path, side: str, steps: int, collector: bool
) -> tuple[list[float], list[float], PartClock]:
    """Run the demo, its plots included; return losses, accuracies and the times of its parts."""
    tree = ast.parse(demo_source(checkout))
    loop = next(n for n in tree.body if isinstance(n, ast.For) and ast.unparse(n.target) == "k")
    loop.iter = ast.parse(f"range({steps})", mode="eval").body
    mark(loop, PARTS)
    losses, accuracies, clock = [], [], PartClock()

    def watch(text: Any, *_: Any) -> None:
        if str(text).startswith("step"):
            clock(None)
            losses.append(space["total_loss"].data)
            accuracies.append(space["acc"])

    space: dict[str, Any] = {"__name__": "demo", "print": watch, "clock": clock}
    matplotlib.use("Agg")
    if not collector:
        gc.disable()
    with installed(checkout, side):
        exec(compile(tree, "demo.ipynb", "exec"), space)
    return losses, accuracies, clock


def run_tests(checkout: Path) -> list[str]:
    """Run the checkout's tests with nanochat.Value and return their names."""
    passed = []
    with installed(checkout, "nanochat"), contextlib.redirect_stdout(io.StringIO()):
        module = load_module(checkout / "test" / "test_engine.py", "test_engine")
        for name, test in vars(module).items():
            if name.startswith("test_"):
                test()
                passed.append(name)
    assert passed
    return passed


def compare_demo(checkout: Path, steps: int, rounds: int, collector: bool) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    difference = 0.0
    for _ in range(rounds):
        losses, accuracies = {}, {}
        for side in SIDES:
            losses[side], accuracies[side], clock = in_fresh_process(
                run_demo, checkout, side, steps, collector
            )
            del clock.seconds["print"]
            runs[side].append(clock.milliseconds())
        theirs, ours = (np.array(losses[side]) for side in SIDES)
        difference = max(difference, float(np.max(np.abs(ours - theirs) / np.abs(theirs))))
        assert accuracies["nanochat"] == accuracies["micrograd"]
    print(f"{steps} losses: largest relative difference {difference:.1e}, the same accuracies")
    assert difference <= 1e-9
    print(f"per step, Python's garbage collector {'on' if collector else 'off'}, best (median):")
    return {"largest_relative_difference_of_losses": difference, **compare_parts(runs)}


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--micrograd", type=Path, required=True, help="checkout of the repository")
    parser.add_argument("--steps", type=int, default=5, help="the unchanged demo has 100")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkout = options.micrograd.resolve()
    passed = run_tests(checkout)
    print("passed with nanochat.Value:", ", ".join(passed))
    record: dict[str, Any] = {"tests": passed, "steps": options.steps, "rounds": options.rounds}
    for name, collector in (("as it stands", True), ("without Python's collector", False)):
        record[name] = compare_demo(checkout, options.steps, options.rounds, collector)
    print(write_result("scalar/micrograd", record))


if __name__ == "__main__":
    main()
