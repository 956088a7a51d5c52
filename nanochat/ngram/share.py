"""The share of the counts in a mixture: the formula, and how it is fitted to held-out text.

A network has one output more than there are tokens. Its logit against those of the tokens is the
gate: the logarithm of the counts' share against that of the tokens,

    p(token) = (1 − share) · p_network(token) + share · p_counts(token),
    log(share / (1 − share)) = scale · gate + offset.

Training has scale 1 and offset 0. It learns the share on text that the network has read before and
the counts have not, so a new text needs another scale and offset.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanochat.config.share import parse_share

__all__ = [
    "NETWORK_WEIGHT",
    "PLAIN_SHARE",
    "Share",
    "fitted_share",
    "given_share",
    "mixed_losses",
    "mixture_parts",
    "offset_for",
    "shares_of_parts",
    "start_offset",
]

# Training lowers the loss of the mixture plus, by this factor, that of the network alone. Without
# it, the network leaves to the counts what it should learn.
NETWORK_WEIGHT = 1.0
FIRST_SHARE = 0.9  # of the counts, where the network says nothing yet
MOST_OFFSET = 1.5

# The search for the lowest loss starts at the best of these.
SCALES = np.linspace(0.0, 1.25, 6)
OFFSETS = np.arange(-4.0, 12.5, 1.0)
SPREAD = np.array([1.0, 3.0])  # standard deviations of the prior, of scale and offset
MOST_STEPS, SMALLEST_STEP = 60, 1e-10


class Share(NamedTuple):
    """What is done to the gate where a text is scored or drawn."""

    scale: float = 1.0
    offset: float = 0.0

    def of(self, gate: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logarithm of the counts' share against that of the tokens."""
        result: NDArray[np.float64] = self.scale * gate + self.offset
        return result


PLAIN_SHARE = Share()


def given_share(ngram_share: str) -> Share:
    """Return the share of the option; of `auto`, the one that training has."""
    return Share(*(parse_share(ngram_share) or PLAIN_SHARE))


def start_offset(vocab_size: int) -> float:
    """Return what is added to the last logit, which makes the gate: with equal logits, the counts
    have FIRST_SHARE."""
    return math.log(FIRST_SHARE / (1 - FIRST_SHARE) * vocab_size)


def offset_for(epochs: float) -> float:
    """Return the offset for a number of epochs, where no text is held out to fit it.

    In the first epoch, the text is as new to the network as it is to the counts.
    """
    return min(max(epochs - 1.0, 0.0), MOST_OFFSET)


def mixture_parts(
    logits: NDArray[np.float64],  # (…, vocab + 1)
    targets: NDArray[np.int64] | np.int64,  # (…)
) -> NDArray[np.float64]:  # (…, 2)
    """Return the nats of each target by the tokens' logits alone, and the gate without
    `start_offset`."""
    tokens = logits[..., :-1]
    largest = tokens.max(axis=-1, keepdims=True)
    sums = (largest + np.log(np.exp(tokens - largest).sum(axis=-1, keepdims=True)))[..., 0]
    chosen = np.take_along_axis(tokens, np.asarray(targets)[..., None], axis=-1)[..., 0]
    return np.stack((sums - chosen, logits[..., -1] - sums), axis=-1)


def mixed_losses(
    network: NDArray[np.float64],  # nats of the targets by the network alone
    log_odds: NDArray[np.float64],  # of the counts' share: Share.of(gate)
    by_counts: NDArray[np.float64],  # probability of the targets by the counts
) -> NDArray[np.float64]:
    """Return the nats of the targets by the mixture; all arrays have one shape."""
    more = log_odds + np.log(by_counts) + network
    result: NDArray[np.float64] = network + np.logaddexp(log_odds, 0.0) - np.logaddexp(more, 0.0)
    return result


def shares_of_parts(
    network: NDArray[np.float64], log_odds: NDArray[np.float64]
) -> NDArray[np.float64]:  # (…, 2)
    """Return the probability that the network gives to each target, times its share, and the share
    of the counts; the arguments are those of `mixed_losses`."""
    of_tokens = np.exp(-network - np.logaddexp(log_odds, 0.0))
    return np.stack((of_tokens, np.exp(-np.logaddexp(-log_odds, 0.0))), axis=-1)


def fitted_share(
    network: NDArray[np.float64],  # (n,) as in mixed_losses, of text that nothing was trained on
    gate: NDArray[np.float64],  # (n,)
    by_counts: NDArray[np.float64],  # (n,)
) -> Share:
    """Return the scale and offset of the gate that predict the targets best.

    With s the share of the counts and w their part in the mixture, the loss has the gradient
    mean((s − w) · (gate, 1)). It may have several minima, so the best of a grid is refined, by
    Newton's method where the loss is convex and otherwise along the gradient, scaled by its mean
    square. A weak prior keeps a few targets from deciding everything.
    """
    advantage = np.log(by_counts) + network  # of the counts, in nats
    features = np.stack((gate, np.ones_like(gate)))
    prior = 1.0 / (SPREAD**2 * len(gate))

    def loss(place: NDArray[np.float64]) -> float:
        log_odds = place[0] * gate + place[1]
        nats = np.logaddexp(log_odds, 0.0) - np.logaddexp(log_odds + advantage, 0.0)
        return float(nats.mean() + 0.5 * (prior * (place - PLAIN_SHARE) ** 2).sum())

    grid = [np.array([scale, offset]) for scale in SCALES for offset in OFFSETS]
    place = min(grid, key=loss)
    lowest = loss(place)
    for _ in range(MOST_STEPS):
        log_odds = place[0] * gate + place[1]
        share, part = _sigmoid(log_odds), _sigmoid(log_odds + advantage)
        slope = features @ (share - part) / len(gate) + prior * (place - PLAIN_SHARE)
        curvature = share * (1 - share) - part * (1 - part)
        bend = (features * curvature) @ features.T / len(gate) + np.diag(prior)
        if bend[0, 0] <= 0 or np.linalg.det(bend) <= 0:  # not convex here
            square = (share - part) ** 2
            bend = (features * square) @ features.T / len(gate) + np.diag(prior)
        step = -np.linalg.solve(bend, slope)
        while True:
            tried = place + step
            tried[0] = max(tried[0], 0.0)
            found = loss(tried)
            if found < lowest or np.abs(step).max() < SMALLEST_STEP:
                break
            step *= 0.5
        if not found < lowest:
            break
        place, lowest = tried, found
    return Share(float(place[0]), float(place[1]))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = 0.5 + 0.5 * np.tanh(0.5 * x)
    return result
