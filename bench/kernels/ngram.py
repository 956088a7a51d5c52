"""Counting n-grams: seconds and bytes per token, lookups per second, and the score of a text.

    python -m bench.kernels.ngram TEXT [--orders N…] [--threads N] [--rounds N] [--cut-length N]

The first nine tenths of the characters are counted, the last tenth is scored frozen, as in the
race. Prints the least seconds of all rounds and writes nothing: on a busy machine the figures are
rough. Counting uses one thread; lookups use --threads. With --cut-length, the text is counted in
chunks, and n-grams of at least so many tokens that occur once are dropped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.command import command_parser
from nanochat.data.documents import Documents
from nanochat.data.tokenizer import CharTokenizer
from nanochat.ngram.baseline import count_baseline
from nanochat.ngram.kneser_ney import Cutoff, KneserNey


def least_seconds(rounds: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the least seconds of all rounds, and the last result."""
    seconds, result = [], None
    for _ in range(rounds):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def one_document(tokens: Any) -> Documents:
    return Documents.of(tokens, np.array([0, len(tokens)]))


def run(options: argparse.Namespace) -> None:
    text = options.text.read_text(encoding="utf-8")
    tokenizer = CharTokenizer(text)
    tokens = tokenizer.encode(text)
    cut = len(tokens) * 9 // 10
    cutoff = Cutoff(options.cut_length) if options.cut_length else None
    train, scored = one_document(tokens[:cut]), one_document(tokens[cut:])
    vocab, millions = tokenizer.vocab_size, cut / 1e6
    score_bytes = int(tokenizer.token_bytes[scored.tokens].sum())
    print(f"{options.text.name}: {cut:,} tokens counted, {len(scored.tokens):,} scored")
    print("order  s/M tokens  bytes/token  M lookups/s  nats/byte")
    for order in options.orders:
        seconds, model = least_seconds(
            options.rounds, lambda order=order: KneserNey.count(train, order, vocab, cutoff=cutoff)
        )
        lookup_s, losses = least_seconds(
            options.rounds, lambda model=model: model.token_losses(scored, threads=options.threads)
        )
        print(
            f"{order:5}  {seconds / millions:10.3f}  {model.bytes / cut:11.1f}"
            f"  {len(losses) / lookup_s / 1e6:11.2f}  {losses[:-1].sum() / score_bytes:9.4f}"
        )
    seconds, baseline = least_seconds(
        options.rounds,
        lambda: count_baseline(train, scored, vocab, tokenizer.token_bytes, seed=0),
    )
    print(f"baseline, order {baseline.order}: {seconds / millions:.3f} s/M tokens", end="")
    print(f", {baseline.bpb:.4f} bits per byte")


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--orders", type=int, nargs="+", default=[5, 7, 13])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cut-length", type=int, default=0)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
