"""One side of generate.py: a process that generates tokens on request and reports the time.

    python -m bench.tensor.generate_worker SIDE THREADS [PATH]

SIDE is native, native-bfloat16 or calls (of this package), counts or counts-bfloat16 (of this
package, mixed with the n-grams of the text PATH), or nanoGPT or nanochat (of the checkout PATH).
Prints a line with versions first. Reads lines of JSON from stdin, {"rows", "tokens", "seconds"}:
for each one, generates that many tokens for that many rows from a prompt of one token, repeats this
until the seconds have passed, and prints the mean seconds of one generation, prompt included.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from bench.command import command_parser

SIDES = (
    "native", "native-bfloat16", "counts", "counts-bfloat16", "calls", "nanoGPT", "nanochat",
)  # fmt: skip
VOCAB, N_LAYER, N_HEAD, N_EMBD, BLOCK_SIZE = 65, 4, 4, 128, 64  # nanoGPT's CPU recipe
ORDER = 9  # of the n-grams
NEVER = -1  # a token that is never drawn, for sides that stop at a token

Generate = Callable[[int, int], None]  # rows, tokens


def ours(side: str, text: Path | None = None) -> Generate:

    from nanochat.config.options import TrainConfig
    from nanochat.sampling import sampling
    from nanochat.sampling.mixed import mixed_with
    from nanochat.tensor import decoder
    from nanochat.tensor.engine import TensorEngine

    config = TrainConfig(
        mode="tensor", n_layer=N_LAYER, n_head=N_HEAD, n_embd=N_EMBD, block_size=BLOCK_SIZE,
        ngram_order=0 if text is None else ORDER,
    )  # fmt: skip
    dtype = "bfloat16" if side.endswith("bfloat16") else "float32"
    network = TensorEngine(config, VOCAB, device="cpu", dtype=dtype)
    engine = mixed_with(network, None if text is None else counts_of(text))
    sampling.BOS = NEVER
    if side == "calls":
        decoder.decodes = lambda *_: False

    def generate(rows: int, tokens: int) -> None:
        settings = sampling.SamplingSettings(
            temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=tokens, seed=1
        )
        steps = list(sampling.sample_tokens(engine, [1], settings, rows=rows))
        assert len(steps) == tokens
        assert all(len(step) == rows and None not in step for step in steps)

    return generate


def counts_of(path: Path) -> Any:
    """Count the n-grams of a text's characters; the rarest ones are one token."""
    from nanochat.data.documents import Documents
    from nanochat.ngram.kneser_ney import KneserNey

    letters = np.array(list(path.read_text(encoding="utf-8")))
    _, ids, frequencies = np.unique(letters, return_inverse=True, return_counts=True)
    ranks = np.argsort(np.argsort(-frequencies, kind="stable"))
    tokens = np.minimum(ranks[ids] + 1, VOCAB - 1)
    return KneserNey.count(Documents.of(tokens, np.array([0, len(tokens)])), ORDER, VOCAB)


def nanogpt(checkout: Path) -> Generate:
    model_file = _imported("model", checkout)
    model = model_file.GPT(
        model_file.GPTConfig(
            block_size=BLOCK_SIZE, vocab_size=VOCAB, n_layer=N_LAYER, n_head=N_HEAD,
            n_embd=N_EMBD, dropout=0.0, bias=False,
        )
    )  # fmt: skip
    model.eval()

    @torch.no_grad()
    def generate(rows: int, tokens: int) -> None:
        generated = model.generate(torch.ones((rows, 1), dtype=torch.int64), tokens)
        assert generated.shape == (rows, 1 + tokens)

    return generate


def nanochat(checkout: Path) -> Generate:
    for name in ("rustbpe", "tiktoken"):  # its tokenizers, which generation does not need
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = ModuleType(name)
    gpt, engine = (_imported(f"nanochat.{name}", checkout) for name in ("gpt", "engine"))
    model = gpt.GPT(
        gpt.GPTConfig(
            sequence_len=BLOCK_SIZE, vocab_size=VOCAB, n_layer=N_LAYER, n_head=N_HEAD,
            n_kv_head=N_HEAD, n_embd=N_EMBD, window_pattern="L",
        )
    )  # fmt: skip
    model.init_weights()
    model.eval()
    tokenizer = SimpleNamespace(encode_special=lambda _: NEVER, get_bos_token_id=lambda: NEVER)
    decoder = engine.Engine(model, tokenizer)

    def generate(rows: int, tokens: int) -> None:
        columns = list(decoder.generate([1], num_samples=rows, max_tokens=tokens))
        assert len(columns) == tokens
        assert all(len(column) == rows for column, _ in columns)

    return generate


def _imported(name: str, checkout: Path) -> Any:
    """Import a module of the checkout, which may have the name of ours."""
    sys.path.insert(0, str(checkout))
    module = importlib.import_module(name)
    if checkout not in Path(str(module.__file__)).resolve().parents:
        raise SystemExit(
            f"{name} must be imported from {checkout}, got {module.__file__}; give this side a"
            " Python in which no package of that name is installed"
        )
    return module


def mean_seconds(generate: Generate, rows: int, tokens: int, seconds: float) -> float:
    """Repeat a generation until `seconds` have passed and return the mean time of one."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        generate(rows, tokens)
        count += 1
    return (time.perf_counter() - started) / count


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("threads", type=int)
    parser.add_argument("path", type=Path, nargs="?")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    peers = {"nanoGPT": nanogpt, "nanochat": nanochat}
    needs_path = options.side in peers or options.side.startswith("counts")
    if needs_path and options.path is None:
        parser.error(f"side {options.side} needs a PATH")
    if options.side in peers:
        generate = peers[options.side](options.path.resolve())
    else:
        generate = ours(options.side, options.path if needs_path else None)
    versions = {"python": sys.version.split()[0], "torch": torch.__version__}
    print(json.dumps(versions), file=sys.__stdout__, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        seconds = mean_seconds(generate, **request)
        print(json.dumps(seconds), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
