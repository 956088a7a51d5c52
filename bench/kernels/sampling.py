"""The draws that the kernel benchmark compares: ours, and the idioms of other projects in torch.

The idioms are those of nanoGPT, karpathy/nanochat, gpt-fast and Llama.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernels.cases import Case
from bench.kernels.problem import SEED, Contestant, Entry, Missing, Problem, address
from nanochat import native

__all__ = ["STATE", "sample_abi", "sample_ops", "sample_peers"]

STATE = (SEED, 0, 0)  # seed, item of the first row, index: nanochat.ops._sample


def sample_ops(problem: Problem) -> Iterable[Entry]:
    name = "nanochat op"
    try:
        from nanochat.ops import sample
    except ImportError as error:
        yield Missing(name, str(error))
        return
    case, logits = problem.case, problem.logits
    assert logits is not None
    state = torch.tensor(STATE, dtype=torch.int64, device=logits.device)
    options = {"temperature": case.temperature, "top_k": case.top_k, "top_p": case.top_p}
    yield Contestant(name, "ours", partial(sample, logits, state, **options))


def sample_abi(problem: Problem) -> Iterable[Entry]:
    """Yield a call of nck_sample alone, with its arguments prepared."""
    library, null, case = native.cpu(), native.ffi.NULL, problem.case
    name = "nanochat ABI"
    if not hasattr(library, "nck_sample"):
        yield Missing(name, "the library has no nck_sample")
        return
    tokens = torch.empty(case.rows, dtype=torch.int64)
    state = torch.tensor(STATE, dtype=torch.int64)
    arguments = (
        address(problem.logits), case.rows, case.vocab, case.vocab, native.DTYPES[case.dtype], null,
        address(state, "int64_t *"), null, case.temperature, case.top_k, case.top_p,
        address(tokens, "int64_t *"), torch.get_num_threads(),
    )  # fmt: skip

    def run() -> Tensor:
        native.check(library.nck_sample(*arguments), library)
        return tokens

    run.memory = (problem, state)  # type: ignore[attr-defined]  # keeps it alive
    yield Contestant(name, "ours", run)


def nanogpt_idiom(logits: Tensor, case: Case) -> Tensor:
    """Draw as nanoGPT's generate: softmax and draw over the whole vocabulary."""
    logits = logits / case.temperature
    if case.top_k:
        largest, _ = torch.topk(logits, case.top_k)
        logits[logits < largest[:, [-1]]] = -float("inf")
    return torch.multinomial(F.softmax(logits, dim=-1), 1)


def nanochat_idiom(logits: Tensor, case: Case) -> Tensor:
    """Draw as nanochat's sample_next_token: softmax and draw over the k largest."""
    largest, tokens = torch.topk(logits, case.top_k)
    choice = torch.multinomial(F.softmax(largest / case.temperature, dim=-1), 1)
    return tokens.gather(1, choice)


def race_idiom(logits: Tensor, case: Case) -> Tensor:
    """Draw as gpt-fast: the first of exponential clocks, without a running sum."""
    probabilities = F.softmax(logits / case.temperature, dim=-1)
    clocks = torch.empty_like(probabilities).exponential_(1)
    return (probabilities / clocks).argmax(dim=-1, keepdim=True)


def llama_idiom(logits: Tensor, case: Case) -> Tensor:
    """Draw as Llama's sample_top_p: with all probabilities sorted."""
    probabilities = torch.softmax(logits / case.temperature, dim=-1)
    ordered, tokens = torch.sort(probabilities, dim=-1, descending=True)
    before = torch.cumsum(ordered, dim=-1) - ordered
    ordered = ordered.masked_fill(before > case.top_p, 0)
    choice = torch.multinomial(ordered / ordered.sum(dim=-1, keepdim=True), 1)
    return tokens.gather(1, choice)


def sample_peers(problem: Problem, compiles: bool) -> Iterable[Entry]:
    case, logits = problem.case, problem.logits
    if case.top_p < 1:
        idioms = {"Llama's idiom": llama_idiom}
    elif case.top_k:
        idioms = {"nanoGPT's idiom": nanogpt_idiom, "nanochat's idiom": nanochat_idiom}
    else:
        idioms = {"softmax, multinomial": nanogpt_idiom, "gpt-fast's idiom": race_idiom}
    for name, idiom in idioms.items():
        draw = partial(idiom, case=case)
        yield Contestant(name, "peer", partial(draw, logits))
        if compiles:
            compiled = torch.compile(draw, dynamic=False)
            yield Contestant(f"{name}, compiled", "peer", partial(compiled, logits))
