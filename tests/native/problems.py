"""Random problems for the kernels. Hypothesis draws only a few sizes and a seed."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from native.oracle import Loss, Problem
from native.storage import DTYPES, Matrix, accumulation_dtype
from numpy.typing import NDArray

# Below, at and above the vector widths of every set, and enough rows for several chunks.
VOCABS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 257, 1000)
ROWS = (0, 1, 2, 3, 5, 17, 64, 255, 256, 257, 600)


@st.composite
def losses(draw: st.DrawFn) -> Loss:
    return Loss(
        ignore_index=draw(st.sampled_from([-100, -1, 0, 2])),
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 0.75, 1.0])),
        z_loss=draw(st.sampled_from([0.0, 1e-4, 0.3])),
        softcap=draw(st.sampled_from([0.0, 15.0, 3.0, 100.0])),
        reduction=draw(st.sampled_from(["none", "mean", "sum"])),
    )


@st.composite
def stored_problems(draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES) -> tuple[Problem, Matrix]:
    """Draw a problem with finite logits, and its logits as stored."""
    vocab = draw(st.sampled_from(VOCABS))
    rows = draw(st.sampled_from([r for r in ROWS if r * vocab <= 40_000]))
    dtype = draw(st.sampled_from(dtypes))
    scale = draw(st.sampled_from([0.01, 1.0, 8.0, 60.0]))
    weights = draw(st.sampled_from(["none", "class", "token", "both"]))
    upstream = draw(st.sampled_from(["none", "one", "rows"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    matrix = Matrix.of(
        random.normal(size=(rows, vocab)) * scale,
        dtype,
        stride=vocab + draw(st.integers(0, 3)),
    )
    loss = draw(losses())
    targets = random.integers(0, vocab, rows)
    targets[random.random(rows) < draw(st.sampled_from([0.0, 0.3]))] = loss.ignore_index

    def numbers(count: int) -> NDArray[np.float64]:
        return random.uniform(0.1, 2.0, count).astype(accumulation_dtype(dtype)).astype(np.float64)

    problem = Problem(
        logits=matrix.values(),
        targets=targets,
        loss=loss,
        class_weights=numbers(vocab) if weights in ("class", "both") else None,
        token_weights=numbers(rows) if weights in ("token", "both") else None,
        upstream={"none": None, "one": numbers(1), "rows": numbers(rows)}[upstream],
    )
    return problem, matrix
