"""The ops as torch sees them: schemas, fake kernels, derivatives, compilation, processes."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.losses import random_rows
from torch import Tensor

from nanochat.ops import cross_entropy, linear_cross_entropy

NCK = torch.ops.nck
PLAIN = (-1, 0.0, 0.0, 0.0)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits, hidden, weight, targets."""
    logits, targets = random_rows(6, 11, dtype)
    hidden, weight = (torch.randn(n, 5, dtype=torch.float64).to(dtype) for n in (6, 11))
    return logits, hidden, weight, targets


def samples() -> list[tuple[str, Any, tuple[Any, ...]]]:
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        logits, hidden, weight, targets = inputs(dtype)
        accumulated = torch.float64 if dtype == torch.float64 else torch.float32
        classes, tokens = torch.rand(11, dtype=accumulated), torch.rand(6, dtype=accumulated)
        for reduction, code in (("none", 0), ("mean", 1), ("sum", 2)):
            waits = code != 0 and dtype != torch.float16
            weighted = targets, classes, tokens, -1, 0.1, 0.01, 5.0, code
            upstream = torch.rand(6 if code == 0 else (), dtype=accumulated)
            leaf = logits.clone().requires_grad_()
            leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
            for name, op, arguments in (
                ("cross_entropy", NCK.cross_entropy, (leaf, *weighted, waits, True)),
                ("plain", NCK.cross_entropy,
                 (logits, targets, None, None, *PLAIN, code, False, False)),
                ("in place", NCK.cross_entropy_, (logits.clone(), *weighted, True)),
                ("backward", NCK.cross_entropy_backward, (upstream, logits, *weighted)),
                ("linear", NCK.linear_cross_entropy, (*leaves, *weighted, waits, waits, True)),
                ("linear backward", NCK.linear_cross_entropy_backward,
                 (upstream, hidden, weight, *weighted, True, True)),
                ("scale_rows", NCK.scale_rows, (logits, upstream)),
            ):  # fmt: skip
                found.append((f"{name}-{reduction}-{dtype}", op, arguments))
    return found


@pytest.mark.parametrize(
    ("op", "arguments"), [s[1:] for s in samples()], ids=[s[0] for s in samples()]
)
def test_opcheck_finds_nothing(op: Any, arguments: tuple[Any, ...]) -> None:
    result = torch.library.opcheck(op.default, arguments)
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from inductor
@pytest.mark.parametrize(
    ("backend", "reduction", "inplace"),
    [
        *itertools.product(["aot_eager"], ["mean", "none"], [False, True]),
        ("inductor", "mean", False),  # it takes 15 s
    ],
)
def test_compiled_as_one_graph_it_gives_the_same(
    backend: str, reduction: str, inplace: bool
) -> None:
    logits, hidden, weight, targets = inputs()
    leaves = [t.requires_grad_() for t in (logits, hidden, weight)]

    def both(logits: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        options: Any = {"reduction": reduction, "softcap": 3.0}
        first = cross_entropy(logits * 2, targets, inplace=inplace, **options)
        return (first + linear_cross_entropy(hidden, weight, targets, **options)).sum()

    results = []
    for function in (both, torch.compile(both, fullgraph=True, backend=backend)):
        loss = function(*leaves, targets)
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    torch.testing.assert_close(results[0], results[1])


def test_compiled_for_any_number_of_rows() -> None:
    compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 8, 21):
        logits, targets = random_rows(rows, 11, torch.float32)
        assert torch.equal(compiled(logits, targets), cross_entropy(logits, targets))


def test_fake_tensors_have_the_shapes_of_real_ones() -> None:
    with torch._subclasses.FakeTensorMode():
        logits = torch.empty(6, 11, dtype=torch.bfloat16, requires_grad=True)
        losses = cross_entropy(logits, torch.zeros(6, dtype=torch.int64), reduction="none")
        assert (losses.shape, losses.dtype) == ((6,), torch.float32)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert (gradient.shape, gradient.dtype) == (logits.shape, logits.dtype)


TWO_PROCESSES = """
import os
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from nanochat.ops import linear_cross_entropy

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
hidden = torch.randn(8, 6, dtype=torch.float64)
targets = torch.randint(0, 9, (8,))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(6, 5, bias=False, dtype=torch.float64)
        self.head = torch.nn.Linear(5, 9, bias=False, dtype=torch.float64)

    def forward(self, hidden, targets):
        return linear_cross_entropy(self.inner(hidden), self.head.weight, targets)


model = Model()
alone = torch.autograd.grad(model(hidden, targets), list(model.parameters()))
wrapped = DistributedDataParallel(model)
part = slice(4 * rank, 4 * rank + 4)
wrapped(hidden[part], targets[part]).backward()
for parameter, wanted in zip(model.parameters(), alone):
    torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=1e-14)
dist.destroy_process_group()
print("equal")
"""


def test_two_processes_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES],
            env={**os.environ, **group, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path,  # so that the installed nanochat is imported
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [out for out, _ in outputs] == ["equal\n"] * 2, outputs
