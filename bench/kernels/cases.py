"""The cases of the kernel benchmark, the work of each, and the goals. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["CPU_CASES", "CUDA_CASES", "MACHINE", "Case", "Goal", "quick"]

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}

# Per element of a cross-entropy: compare, subtract, exponential, add, multiply. Per element of a
# draw: compare, subtract, multiply, exponential, add. The exponential counts as one operation.
ELEMENT_OPERATIONS = 5


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The medians at which a case counts as won."""

    ratio: float = 1.0  # best peer's time / ours, at least
    limit_share: float = 0.0  # the limit's time / ours, at least; 0: no goal


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation with its shapes, dtype and options."""

    kind: str  # "cross_entropy", "linear_cross_entropy", "sample" or "machine"
    rows: int
    vocab: int
    dtype: str = "float32"
    width: int = 0  # hidden size, for linear_cross_entropy
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    goal: Goal = Goal()

    @property
    def name(self) -> str:
        short = {"float32": "f32", "bfloat16": "bf16"}[self.dtype]
        if self.kind == "machine":
            return f"machine-{short}"
        parts = [self.kind, f"{self.rows}x{self.vocab}", short]
        if self.width:
            parts[1] = f"{self.rows}x{self.width}-{self.vocab}"
        if self.top_k:
            parts.append(f"top-k-{self.top_k}")
        if self.top_p < 1:
            parts.append(f"top-p-{self.top_p:g}")
        return "-".join(parts)

    @property
    def matrix_bytes(self) -> int:
        """Bytes of the logits."""
        return self.rows * self.vocab * ELEMENT_BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """The least bytes that memory must move: operands read once, results written once."""
        if self.kind == "cross_entropy":
            return 2 * self.matrix_bytes
        if self.kind == "linear_cross_entropy":
            operands = (self.rows + self.vocab) * self.width
            return 2 * operands * ELEMENT_BYTES[self.dtype]
        return self.matrix_bytes

    @property
    def operations(self) -> int:
        """Floating-point operations: per element, plus the three products of a linear case."""
        elements = ELEMENT_OPERATIONS * self.rows * self.vocab
        return elements + 3 * 2 * self.rows * self.width * self.vocab

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes

    @property
    def limit(self) -> str:
        """The operation of this case's contestants of role "limit"."""
        return {
            "cross_entropy": "copy",
            "linear_cross_entropy": "three products",
            "sample": "read",
            "machine": "",
        }[self.kind]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Case:
        return Case(**{**record, "goal": Goal(**record["goal"])})


def _cross_entropy(rows: int, vocab: int, dtype: str = "float32", *goal: float) -> Case:
    return Case(kind="cross_entropy", rows=rows, vocab=vocab, dtype=dtype, goal=_goal(*goal))


def _goal(ratio: float = 1.0, limit_share: float = 0.0) -> Goal:
    return Goal(ratio=ratio, limit_share=limit_share)


def _linear(rows: int, width: int, vocab: int, dtype: str = "float32", *goal: float) -> Case:
    return Case(
        kind="linear_cross_entropy", rows=rows, vocab=vocab, dtype=dtype, width=width,
        goal=_goal(*goal),
    )  # fmt: skip


def _sample(rows: int, vocab: int, dtype: str = "float32", **options: Any) -> Case:
    return Case(kind="sample", rows=rows, vocab=vocab, dtype=dtype, temperature=0.8, **options)


# Measured first in every run: copying and reading a large buffer, and square products.
MACHINE = {
    "cpu": [
        Case(kind="machine", rows=4096, vocab=32768, dtype="float32"),
        Case(kind="machine", rows=4096, vocab=32768, dtype="bfloat16"),
    ],
    "cuda": [
        Case(kind="machine", rows=16384, vocab=131072, dtype="float32"),
        Case(kind="machine", rows=16384, vocab=131072, dtype="bfloat16"),
    ],
}
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}  # n of n × n × n

CPU_CASES = [
    _cross_entropy(4096, 50304, "float32", 3.5, 0.6),
    _cross_entropy(4096, 50304, "bfloat16", 4.0),
    _cross_entropy(2048, 32768, "float32", 4.0, 0.6),
    _cross_entropy(4096, 4096),
    _cross_entropy(4096, 256, "float32", 4.0),
    _cross_entropy(768, 65, "float32", 1.5),
    _linear(2048, 512, 32768, "float32", 1.25, 0.95),
    _linear(2048, 512, 32768, "bfloat16"),
    _linear(768, 128, 65, "float32", 1.2),
    _sample(256, 50304, top_k=50, goal=_goal(4.0, 1 / 1.5)),
    _sample(256, 50304),
    _sample(256, 50304, top_p=0.9),
    _sample(1, 65),
]

CUDA_CASES = [
    _cross_entropy(1 << 20, 65, "bfloat16"),
    _cross_entropy(1 << 19, 256, "bfloat16"),
    _cross_entropy(1 << 18, 1024, "bfloat16"),
    _cross_entropy(1 << 16, 4096, "bfloat16"),
    _cross_entropy(1 << 15, 16384, "bfloat16"),
    _cross_entropy(1 << 15, 32768, "bfloat16"),
    _cross_entropy(1 << 14, 50304, "bfloat16"),
    _cross_entropy(8192, 128256, "bfloat16"),
    _cross_entropy(8192, 50304),
    _linear(8192, 2048, 32768, "bfloat16"),
    _linear(8192, 2048, 128256, "bfloat16"),
    _sample(256, 50304, "bfloat16", top_k=50),
    _sample(256, 50304, "bfloat16"),
    _sample(256, 50304, "bfloat16", top_p=0.9),
    _sample(1, 65),
]

QUICK_BYTES, QUICK_OPERATIONS = 32 << 20, 15e9  # of the logits; of the case
QUICK_MACHINE_BYTES = 128 << 20


def quick(case: Case) -> Case:
    """Return the case, with fewer rows if it is large."""
    max_bytes = QUICK_MACHINE_BYTES if case.kind == "machine" else QUICK_BYTES
    while case.matrix_bytes > max_bytes or case.operations > QUICK_OPERATIONS:
        case = replace(case, rows=case.rows // 2)
    return case
