"""Compares what another program makes of exported files with what this one computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import shown
from nanochat.data.tokenizer import BOS
from nanochat.errors import ExportError, NanochatError
from nanochat.exporting.network import Network, Run
from nanochat.sampling.sampling import OpensDecoders

__all__ = ["MOST_TOKENS", "TOLERANCE", "LoadAndRun", "Verification", "rows_of", "verify"]

TOLERANCE = 1e-4  # of a logit, with weights in float32
LOSS_TOLERANCE = 0.02  # nats per token, with rounded weights
MOST_TOKENS = 1024

# Takes the folder with the files, rows of ids (rows, length) and texts.
LoadAndRun = Callable[[Path, NDArray[np.int64], Sequence[str]], Run]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What another program computed from the files, compared with this one."""

    program: str  # name and version
    tokens: int  # whose logits were compared
    difference: float  # the largest of a logit
    loss_difference: float  # nats per token
    tokenizer: bool  # whether its tokenizer was compared too

    def in_words(self) -> list[str]:
        """Return lines for people."""
        same = "the same tokens, and logits" if self.tokenizer else "logits"
        return [
            f"verified with {self.program} on {self.tokens:,} tokens:",
            f"{same} that differ by at most {self.difference:.2g}",
        ]


def rows_of(
    stream: NDArray[np.integer],  # (tokens,)
    block_size: int,
) -> NDArray[np.int64]:  # (rows, length)
    """Return the first tokens of a text as rows that fill the context, 1,024 tokens at most."""
    length = min(block_size, len(stream), MOST_TOKENS)
    rows = max(1, min(len(stream), MOST_TOKENS) // length)
    return stream[: rows * length].astype(np.int64).reshape(rows, length)


def verify(
    load_and_run: LoadAndRun,
    folder: Path,  # with the files
    network: Network,
    ours: OpensDecoders,  # the same network
    rows: NDArray[np.int64],  # (rows, length)
    *,
    rounded: bool,  # whether the files have weights of fewer bits than float32
) -> Verification:
    """Raise ExportError if the other program splits the text differently, or computes logits, or a
    loss with rounded weights, that differ by more than the tolerance."""
    texts = [network.tokenizer.decode(row) for row in rows]
    bos = [BOS] if network.opens_with_bos else []
    run = _run(load_and_run, folder, rows, texts)
    for text, ids in zip(texts, run.ids or (), strict=run.ids is not None):
        if ids != [*bos, *network.tokenizer.encode(text).tolist()]:
            raise ExportError(
                f"{run.program} splits the text {shown(text)} into other tokens; nothing was kept"
            )
    logits = _logits(ours, rows)
    if run.logits.shape != logits.shape:
        raise ExportError(
            f"{run.program} returns logits of shape {run.logits.shape}, and nanochat"
            f" {logits.shape}; nothing was kept"
        )
    found = Verification(
        program=run.program, tokens=rows.size, tokenizer=run.ids is not None,
        difference=float(np.abs(logits - run.logits).max()),
        loss_difference=abs(_loss(logits, rows) - _loss(run.logits, rows)),
    )  # fmt: skip
    what, difference, most = "logits", found.difference, TOLERANCE
    if rounded:
        what, difference, most = "a loss", found.loss_difference, LOSS_TOLERANCE
    if not difference <= most:  # also NaN
        raise ExportError(
            f"by {run.program}, the files give {what} that differ by {difference:.2g}, where"
            f" {most:g} is allowed; nothing was kept"
        )
    return found


def _run(
    load_and_run: LoadAndRun, folder: Path, rows: NDArray[np.int64], texts: Sequence[str]
) -> Run:
    try:
        return load_and_run(folder, rows, texts)
    except NanochatError:
        raise
    except Exception as error:  # another program may raise anything, OSError too
        said = next(iter(str(error).splitlines()), "")
        raise ExportError(
            f"the other program fails with the files: {type(error).__name__}: {said[:200]}; nothing"
            " was kept, --no-verify keeps them"
        ) from error


def _logits(
    network: OpensDecoders,
    rows: NDArray[np.int64],  # (rows, length)
) -> NDArray[np.float64]:  # (rows, length, vocabulary)
    """Return the logits after each token, by the decoder that samples."""
    decoder = network.open_decoder(rows[:, :1].tolist())
    found = [decoder.logits.astype(np.float64)]
    for column in rows.T[1:]:
        decoder.advance(column.tolist())
        found.append(decoder.logits.astype(np.float64))
    return np.stack(found, axis=1)


def _loss(
    logits: NDArray[np.floating],  # (rows, length, vocabulary)
    rows: NDArray[np.int64],  # (rows, length)
) -> float:  # nats per token
    if rows.shape[1] < 2:
        return 0.0
    before = logits[:, :-1].astype(np.float64)
    chosen = np.take_along_axis(before, rows[:, 1:, None], axis=-1)[..., 0]
    return float((np.logaddexp.reduce(before, axis=-1) - chosen).mean())
