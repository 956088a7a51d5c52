"""The side of llama.cpp in bench.serve: a process that generates by its batch API, on request.

    python -m bench.serve.llama_worker FILE.gguf TOKENS

Runs under a Python that has llama_cpp and NumPy and need not have nanochat. Reads lines of JSON
from stdin and answers each with one. {"start": IDS} gives the likeliest tokens after these, of two
windows at most; {"start": IDS, "rows": N, "repeats": R} gives the best tokens per second of R
generations of N texts of TOKENS tokens, and the set-up of the library. Each token sees as many of
the last tokens as the context window of the model holds: that is what nanochat computes beyond it.

The library does as little as it can: logits of sampled tokens only, a sampler chain per text with
nothing but the draw, which is temperature 1, no text and no HTTP. NumPy fills its arrays, and its
functions are called without the checks of its Python package. Each of the set-ups is tried first,
and the fastest is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.command import command_parser

if TYPE_CHECKING:
    import llama_cpp  # otherwise after --help, which the project's own Python can print

SETUPS = [
    {"threads": threads, "unified": unified, "flash": flash}
    for threads, unified, flash in itertools.product(
        sorted({1, os.cpu_count() or 1}), (False, True), (False, True)
    )
]
_CELLS = 256  # the library makes caches of a multiple of this size


class Generator:
    """One context of the library, for a number of texts that are generated together."""

    def __init__(self, model: Any, window: int, rows: int, setup: dict[str, Any]) -> None:
        size = llama_cpp.llama_context_default_params()
        size.n_ctx = rows * -(-(window + 1) // _CELLS) * _CELLS
        size.n_batch = size.n_ubatch = max(rows, 32)
        size.n_seq_max = rows
        size.n_threads = size.n_threads_batch = setup["threads"]
        size.kv_unified = setup["unified"]
        size.flash_attn_type = int(setup["flash"])
        size.type_k = size.type_v = llama_cpp.GGML_TYPE_F32  # as nanochat keeps them
        self._window, self._rows = window, rows
        self._context = llama_cpp.llama_init_from_model(model, size)
        assert self._context is not None, f"llama.cpp must accept {setup}"
        self._memory = llama_cpp.llama_get_memory(self._context)
        batch = self._batch = llama_cpp.llama_batch_init(rows, 0, 1)
        batch.n_tokens = rows
        self._ids = np.ctypeslib.as_array(batch.token, (rows,))
        self._positions = np.ctypeslib.as_array(batch.pos, (rows,))
        for row in range(rows):
            batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = 1, row, 1

    def tokens(
        self, start: list[int], count: int, samplers: list[Any]
    ) -> np.ndarray[Any, Any]:  # (count, rows)
        """Return the next tokens of texts that begin alike, one sampler per text."""
        library = llama_cpp.llama_cpp._lib
        decode, sample = library.llama_decode, library.llama_sampler_sample
        drop = library.llama_memory_seq_rm
        llama_cpp.llama_memory_clear(self._memory, False)
        found = np.empty((count, self._rows), np.int32)
        calls = [(sampler, self._context, row) for row, sampler in enumerate(samplers)]
        self._positions[:] = 0
        for at in range(1 - len(start), count):
            self._ids[:] = start[at - 1] if at < 1 else found[at - 1]
            if (first := at + len(start) - self._window) > 0:
                drop(self._memory, -1, 0, first)  # of every text
            assert decode(self._context, self._batch) == 0
            self._positions += 1
            if at >= 0:
                found[at] = [sample(*call) for call in calls]
        return found

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)


def sampler_of(seed: int | None) -> Any:
    """Return a sampler chain: the likeliest token, or the draw from the softmax."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    last = (
        llama_cpp.llama_sampler_init_greedy()
        if seed is None
        else llama_cpp.llama_sampler_init_dist(seed)
    )
    llama_cpp.llama_sampler_chain_add(chain, last)
    return chain


def best_rate(
    generator: Generator, start: list[int], rows: int, tokens: int, repeats: int
) -> float:
    """Return the tokens per second of the fastest of some generations."""
    best = 0.0
    samplers = [sampler_of(row) for row in range(rows)]
    for _ in range(repeats):
        began = time.perf_counter()
        generator.tokens(start, tokens, samplers)
        best = max(best, rows * tokens / (time.perf_counter() - began))
    for sampler in samplers:
        llama_cpp.llama_sampler_free(sampler)
    return best


class Side:
    """The fastest set-up for each number of texts, found once."""

    def __init__(self, path: str, tokens: int) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        assert self._model is not None, f"llama.cpp must load {path}"
        self._window, self._tokens = llama_cpp.llama_model_n_ctx_train(self._model), tokens
        self._fastest: dict[int, tuple[dict[str, Any], Generator]] = {}

    def greedy(self, start: list[int]) -> list[int]:
        """Return the likeliest tokens: the same as nanochat's, or the file is another model."""
        generator = Generator(self._model, self._window, 1, SETUPS[0])
        count = min(self._tokens, 2 * self._window)
        found: list[int] = generator.tokens(start, count, [sampler_of(None)])[:, 0].tolist()
        generator.close()
        return found

    def rate(self, start: list[int], rows: int, repeats: int) -> dict[str, Any]:
        """Return the best tokens per second, and the set-up."""
        if rows not in self._fastest:
            self._fastest[rows] = self._find_fastest(start, rows)
        setup, generator = self._fastest[rows]
        best = best_rate(generator, start, rows, self._tokens, repeats)
        return {"tokens_per_s": best, "setup": setup}

    def _find_fastest(self, start: list[int], rows: int) -> tuple[dict[str, Any], Generator]:
        tried = []
        for setup in SETUPS:
            generator = Generator(self._model, self._window, rows, setup)
            best_rate(generator, start, rows, 2, 1)  # reads the weights
            count = min(self._tokens, 2 * self._window)
            tried.append(best_rate(generator, start, rows, count, 2))
            generator.close()
        setup = SETUPS[int(np.argmax(tried))]
        return setup, Generator(self._model, self._window, rows, setup)


def parsed() -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("file")
    parser.add_argument("tokens", type=int)
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    side = Side(options.file, options.tokens)
    system = llama_cpp.llama_print_system_info().decode().strip(" |")
    print(json.dumps({"llama_cpp": llama_cpp.__version__, "system": system}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = side.rate(**request) if "rows" in request else side.greedy(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    given = parsed()
    import llama_cpp

    main(given)
