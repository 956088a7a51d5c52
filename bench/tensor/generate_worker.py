"""One side of generate.py: a process that generates when it is told to and says how long it took.

    python -m bench.tensor.generate_worker SIDE THREADS [CHECKOUT]

SIDE is native, native-bfloat16, calls (this package), nanoGPT or nanochat (of CHECKOUT). For each
line of JSON on stdin, {"rows", "tokens", "seconds"}, it generates as many tokens for as many rows
from a prompt of one token, again and again until the seconds are over, and prints a line with the
seconds that one such generation took, the prompt included. The first line it prints has versions.
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

import torch

VOCAB, N_LAYER, N_HEAD, N_EMBD, BLOCK_SIZE = 65, 4, 4, 128, 64  # nanoGPT's CPU recipe
NEVER = -1  # a token that is never drawn, where a side asks which ones end a text

Generate = Callable[[int, int], None]  # rows, tokens


def ours(side: str) -> Generate:
    import numpy as np

    from nanochat.config.options import TrainConfig
    from nanochat.sampling import sampling
    from nanochat.tensor import decoder
    from nanochat.tensor.engine import TensorEngine

    config = TrainConfig(
        mode="tensor", n_layer=N_LAYER, n_head=N_HEAD, n_embd=N_EMBD, block_size=BLOCK_SIZE
    )
    dtype = "bfloat16" if side == "native-bfloat16" else "float32"
    engine = TensorEngine(config, VOCAB, np.ones(VOCAB, np.int64), device="cpu", dtype=dtype)
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
        made = model.generate(torch.ones((rows, 1), dtype=torch.int64), tokens)
        assert made.shape == (rows, 1 + tokens)

    return generate


def nanochat(checkout: Path) -> Generate:
    for name in ("rustbpe", "tiktoken"):  # its tokenizers, of which generation needs none
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
    made = engine.Engine(model, tokenizer)

    def generate(rows: int, tokens: int) -> None:
        columns = list(made.generate([1], num_samples=rows, max_tokens=tokens))
        assert len(columns) == tokens
        assert all(len(column) == rows for column, _ in columns)

    return generate


def _imported(name: str, checkout: Path) -> Any:
    """A module of the checkout, which may be called as ours is."""
    sys.path.insert(0, str(checkout))
    module = importlib.import_module(name)
    if checkout not in Path(str(module.__file__)).resolve().parents:
        raise SystemExit(
            f"{name} must come from {checkout}, got {module.__file__}; give this side a Python in"
            " which nothing of that name is installed"
        )
    return module


def seconds_of(generate: Generate, rows: int, tokens: int, at_least_s: float) -> float:
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < at_least_s:
        generate(rows, tokens)
        count += 1
    return (time.perf_counter() - started) / count


def main() -> None:
    side, threads, *rest = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(1)
    if side in ("nanoGPT", "nanochat"):
        checkout = Path(rest[0]).resolve()
        generate = nanogpt(checkout) if side == "nanoGPT" else nanochat(checkout)
    else:
        generate = ours(side)
    versions = {"python": sys.version.split()[0], "torch": torch.__version__}
    print(json.dumps(versions), file=sys.__stdout__, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = seconds_of(generate, asked["rows"], asked["tokens"], asked["seconds"])
        print(json.dumps(seconds), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
