"""A process of the kernel benchmark that sets up the contestants of a case and runs them.

    python -m bench.kernels.worker cpu|cuda THREADS

Reads commands as lines of JSON and answers each with one line. open: sets up the contestants of a
case, compares ours with the reference and runs each one untimed. run: times `count` runs of a
contestant, in seconds. close: frees the case. The output of libraries goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.command import command_parser
from bench.kernels.cases import Case
from bench.kernels.limits import limits
from bench.kernels.losses import (
    cross_entropy_abi,
    cross_entropy_ops,
    cross_entropy_peers,
    linear_ops,
    linear_peers,
)
from bench.kernels.problem import Contestant, Entry, Missing, Problem, build_problem
from bench.kernels.sampling import STATE, sample_abi, sample_ops, sample_peers
from nanochat import native, philox
from nanochat.philox import Stream
from nanochat.sampling.draw import draw as specification

OPS = {"cross_entropy": cross_entropy_ops, "linear_cross_entropy": linear_ops, "sample": sample_ops}
ABI = {"cross_entropy": cross_entropy_abi, "sample": sample_abi}
PEERS = {
    "cross_entropy": cross_entropy_peers,
    "linear_cross_entropy": linear_peers,
    "sample": sample_peers,
}
LONG_S = 0.1
CHECKED_ROWS = 4


def nothing(*_: Any) -> Iterable[Entry]:
    return ()


def timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class Worker:
    """Holds the contestants of at most one case."""

    def __init__(self, device: str) -> None:
        self.device, self.timed, self.abi, self.more_peers = device, timed, ABI, nothing
        if device == "cuda":
            from bench.kernels import cuda as kernel_cuda

            self.timed = kernel_cuda.Timer().timed
            self.abi, self.more_peers = kernel_cuda.ABI, kernel_cuda.peers
        self.problem: Problem | None = None
        self.contestants: dict[str, Contestant] = {}

    def open(self, case: dict[str, Any], roles: list[str], compiles: bool) -> dict[str, Any]:
        problem = build_problem(Case.from_json(case), self.device)
        self.problem, kind = problem, problem.case.kind
        entries: list[Iterable[Entry]] = []
        if "limit" in roles:
            entries.append(limits(problem))
        if "ours" in roles:
            entries += [OPS.get(kind, nothing)(problem), self.abi.get(kind, nothing)(problem)]
        if "peer" in roles:
            entries += [PEERS.get(kind, nothing)(problem, compiles), self.more_peers(problem)]
        missing = {}
        for entry in chain.from_iterable(entries):
            if isinstance(entry, Missing):
                missing[entry.name] = entry.reason
            else:
                self.contestants[entry.name] = entry
        for entry in self.contestants.values():
            if entry.role == "ours":
                check(entry, problem)
        took = {name: self._warm_up(name) for name in self.contestants}
        described = [
            {"name": each.name, "role": each.role, "seconds": took[each.name]}
            for each in self.contestants.values()
        ]
        return {"contestants": described, "missing": missing}

    def _warm_up(self, name: str) -> float:
        """Return the seconds of the last of four runs, or of two if they are long."""
        seconds = self.run(name, 2)["seconds"][-1]
        return seconds if seconds > LONG_S else self.run(name, 2)["seconds"][-1]

    def run(self, name: str, count: int) -> dict[str, Any]:
        contestant = self.contestants[name]
        return {"seconds": [self._run_once(contestant) for _ in range(count)]}

    def _run_once(self, contestant: Contestant) -> float:
        assert self.problem is not None
        contestant.prepare()
        seconds = self.timed(contestant.run)
        self.problem.forget_gradients()
        return seconds

    def close(self) -> dict[str, Any]:
        self.contestants.clear()
        self.problem = None
        torch._dynamo.reset()
        gc.collect()
        native.cpu().nck_drop_buffers()
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return {}


def check(contestant: Contestant, problem: Problem) -> None:
    """Compare a contestant of ours with the reference. Leaves no gradient."""
    contestant.prepare()
    found = contestant.run()
    try:
        if problem.case.kind == "sample":
            check_tokens(found, problem)
        else:
            check_loss(contestant.name, found, problem)
    finally:
        problem.forget_gradients()


def check_tokens(tokens: torch.Tensor, problem: Problem) -> None:
    case, (seed, item, index) = problem.case, STATE
    assert problem.logits is not None
    rows = problem.logits[:CHECKED_ROWS].float().cpu().numpy()
    words = [
        philox.random_u64(seed, Stream.SAMPLING, item + i, 1, index)[0] for i in range(len(rows))
    ]
    expected = specification(
        rows,
        np.array(words, dtype=np.uint64),
        temperature=case.temperature,
        top_k=case.top_k,
        top_p=case.top_p,
    )
    assert tokens[: len(rows)].tolist() == expected.tolist(), "tokens differ from the specification"


def check_loss(name: str, loss: torch.Tensor, problem: Problem) -> None:
    """Compare the loss with torch's, and a few rows of the gradient with float64 if available."""
    case, targets = problem.case, problem.targets
    assert targets is not None
    logits = problem.logits
    gradient = problem.scratch if "in place" in name else problem.leaves()[0].grad
    with torch.no_grad():
        if logits is None:
            assert problem.hidden is not None
            assert problem.weight is not None
            logits = F.linear(problem.hidden, problem.weight)
        expected = F.cross_entropy(logits.float(), targets).item()
        precision = 1e-5 if case.dtype == "float32" else 1e-2
        assert abs(loss.item() - expected) <= precision * abs(expected), (name, loss, expected)
        if gradient is None:  # the tests check the gradients of ABI calls
            return
        few = logits[:CHECKED_ROWS].double()
        slope = F.softmax(few, dim=1)
        slope[range(len(few)), targets[: len(few)]] -= 1
        slope /= case.rows
        if problem.weight is not None:
            slope = slope @ problem.weight.double()
        error = (gradient[: len(few)].double() - slope).abs().max() / slope.abs().max()
        assert error <= 10 * precision, (name, error.item())


def versions(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instruction_set": native.ffi.string(native.cpu().nck_target()).decode(),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", ""),
    }
    if device == "cuda":
        from bench.kernels import cuda as kernel_cuda

        found.update(kernel_cuda.versions())
    return found


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("device", choices=("cpu", "cuda"))
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    worker = Worker(options.device)
    commands = {
        "open": worker.open,
        "run": worker.run,
        "close": worker.close,
        "versions": lambda: versions(options.device),
    }
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply = commands[command.pop("do")](**command)
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
