"""What a model said of each token that it drew: the network, the counts, and their mixture.

Leaves out how a token is drawn (sampling.py) and what people see (output/explanation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.sampling.mixed import MixedDecoder, log_softmax
from nanochat.sampling.sampling import OpensDecoders
from nanochat.training.engine import Decoder

__all__ = ["Explainer", "TokenExplanation"]

LIKELIEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExplanation:
    """The probabilities of one drawn token, before temperature, top-k, top-p and the style's bias.

    With counts, probability = (1 − counts_share) · network + counts_share · counts. Without, it is
    that of the network, and the fields of the counts are None.
    """

    token: int
    probability: float
    network: float  # by the network alone
    counts: float | None  # by the counts alone
    counts_share: float | None  # share of the counts in the mixture
    matched_order: int | None  # order of the longest n-grams of the counts that the text begins
    likeliest: tuple[tuple[int, float], ...]  # tokens and probabilities, the likeliest first


class Explainer:
    """An engine that keeps what its decoder says, to be read before the decoder advances."""

    def __init__(self, engine: OpensDecoders, rows: int) -> None:
        self._engine = engine
        self.rows: list[list[TokenExplanation]] = [[] for _ in range(rows)]

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        self._decoder = self._engine.open_decoder(prompts)
        return self._decoder

    def keep(self, step: Sequence[int | None]) -> None:
        """Add the explanations of the tokens that were just drawn, one per row."""
        decoder = self._decoder
        drawn = [(row, token) for row, token in enumerate(step) if token is not None]
        if not isinstance(decoder, MixedDecoder):
            network = np.exp(log_softmax(decoder.logits.astype(np.float64)))
            for row, token in drawn:
                self.rows[row].append(
                    TokenExplanation(
                        token=token, probability=float(network[row, token]),
                        network=float(network[row, token]), counts=None, counts_share=None,
                        matched_order=None, likeliest=_likeliest(network[row]),
                    )
                )  # fmt: skip
            return
        network, counts, shares = decoder.parts()
        mixture = (1 - shares[:, None]) * network + shares[:, None] * counts
        orders = decoder.matched_orders()
        for row, token in drawn:
            self.rows[row].append(
                TokenExplanation(
                    token=token, probability=float(mixture[row, token]),
                    network=float(network[row, token]), counts=float(counts[row, token]),
                    counts_share=float(shares[row]), matched_order=orders[row],
                    likeliest=_likeliest(mixture[row]),
                )
            )  # fmt: skip


def _likeliest(probabilities: NDArray[np.float64]) -> tuple[tuple[int, float], ...]:
    order = np.argsort(-probabilities, kind="stable")[:LIKELIEST]
    return tuple((int(token), float(probabilities[token])) for token in order)
