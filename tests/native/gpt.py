"""Models for nck_decode, stored as the kernel reads them, and its functions as NumPy calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from native.calls import OK, UNWRITTEN, last_error, pointer
from native.storage import Placement, accumulation_dtype, to_float64, to_stored
from numpy.typing import NDArray
from oracles.numpy_gpt import NumpyGPT

from nanochat import native
from nanochat.config.options import TrainConfig
from nanochat.model.parameters import ROPE_BASE, parameter_specs

ACTIVATIONS = {"relu": 0, "relu2": 1}
MATRICES = {
    "wqkv": ("attn_wq", "attn_wk", "attn_wv"), "wo": ("attn_wo",),
    "fc1": ("mlp_fc1",), "fc2": ("mlp_fc2",),
}  # fmt: skip


class GPT:
    """Random weights of a config's model, stored in `dtype`, and as float64 for the oracle."""

    def __init__(
        self, dtype: str, vocab: int, *, seed: int = 0, place: Placement = lambda array: array,
        **options: Any,
    ) -> None:  # fmt: skip
        shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "ngram_order": 0}
        self.config = TrainConfig(mode="tensor", **{**shape, **options})
        self.dtype, self.vocab, self.place = dtype, vocab, place
        random = np.random.default_rng(seed)
        self.stored: dict[str, NDArray[Any]] = {}
        self.weights: dict[str, NDArray[np.float64]] = {}
        number = "float64" if dtype == "float64" else "float32"
        for spec in parameter_specs(self.config, vocab):
            values = random.normal(size=spec.shape) * (1.5 / spec.shape[1] ** 0.5)
            kept = number if spec.group == "embedding" and not self.config.tie_lm_head else dtype
            stored = to_stored(values, kept)
            self.stored[spec.name] = stored
            self.weights[spec.name] = to_float64(stored, kept)

    def oracle(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (rows, length, vocab) logits after each token of (rows, length) ids."""
        models = [NumpyGPT(self.config, self.weights, self.config.block_size) for _ in ids]
        rows = zip(models, ids.tolist(), strict=True)
        return np.array([[m.logits(token, i) for i, token in enumerate(row)] for m, row in rows])

    def _numbers(self, *names: str) -> NDArray[Any]:
        numbers = np.concatenate([self.weights[name].ravel() for name in names])
        return self.place(numbers.astype(accumulation_dtype(self.dtype)))

    def _matrix(self, *names: str) -> NDArray[Any]:
        return self.place(np.concatenate([self.stored[name].ravel() for name in names]))

    def described(self, **changes: Any) -> tuple[Any, dict[str, Any]]:
        """Return an nck_gpt and, by name, everything that it points to."""
        config, keep = self.config, {}

        def kept(name: str, array: NDArray[Any]) -> Any:
            keep[name] = array
            return pointer(array)

        layers = native.ffi.new("nck_gpt_layer[]", max(config.n_layer, 1))
        keep["layers"] = layers
        for i in range(config.n_layer):
            for field, names in MATRICES.items():
                array = self._matrix(*(f"layer{i}.{name}" for name in names))
                setattr(layers[i], field, kept(f"{field}{i}", array))
        learned = config.positions == "learned"
        tables = [name for name in self.weights if name.startswith("wte")]
        fields = {
            "vocab": self.vocab, "n_embd": config.n_embd, "n_layer": config.n_layer,
            "n_head": config.n_head, "block_size": config.block_size,
            "dtype": native.DTYPES[self.dtype], "activation": ACTIVATIONS[config.activation],
            "input_norm": config.input_rmsnorm, "qk_norm": config.qk_norm,
            "output_norm": config.output_rmsnorm, "eps": 1e-5,
            "rope_base": 0.0 if learned else ROPE_BASE, "softcap": config.logit_softcap,
            "prev_token_tables": config.prev_token_tables, "hash_embed_rows": config.hash_embed_rows,
            "hash_embed_longest": config.hash_embed_longest, "wte": kept("wte", self._numbers(*tables)),
            "wpe": kept("wpe", self._numbers("wpe")) if learned else native.ffi.NULL,
            "lm_head": kept("lm_head", self._matrix("wte" if config.tie_lm_head else "lm_head")),
            "layers": layers,
        }  # fmt: skip
        return native.ffi.new("nck_gpt *", {**fields, **changes}), keep


class Decoder:
    """A decoder of the C ABI, from nck_open_decoder to nck_close_decoder."""

    def __init__(self, model: GPT, rows: int) -> None:
        self.model, self.rows, self.count = model, rows, 0
        self.counts = [0] * rows  # tokens read by call_rows
        self._described, self.arrays = model.described()
        handle = native.ffi.new("nck_decoder **")
        assert native.cpu().nck_open_decoder(self._described, rows, handle) == OK, last_error()
        self.handle = native.ffi.gc(handle[0], native.cpu().nck_close_decoder)

    def call(
        self, ids: NDArray[np.int64], first: int, threads: int = 1
    ) -> tuple[int, NDArray[Any]]:
        """Return the status and the (rows, vocab) logits of nck_decode."""
        place = self.model.place
        tokens = place(np.ascontiguousarray(ids, np.int64).ravel())
        number = accumulation_dtype(self.model.dtype)
        logits = place(np.full(self.rows * self.model.vocab, UNWRITTEN, number))
        status = native.cpu().nck_decode(
            self.handle, native.ffi.cast("int64_t *", tokens.ctypes.data), ids.shape[1], first,
            pointer(logits), threads,
        )  # fmt: skip
        return status, logits.reshape(self.rows, -1)

    def call_rows(
        self,
        rows: Sequence[int],
        ids: NDArray[np.int64],  # (len(rows), length)
        firsts: Sequence[int] | None,
        threads: int = 1,
    ) -> tuple[int, NDArray[Any]]:
        """Return the status and the (rows, vocab) logits of nck_decode_rows."""
        place = self.model.place
        given = [
            place(np.ascontiguousarray(values, np.int64).ravel())
            for values in (rows, ids, () if firsts is None else firsts)
        ]
        rows_, tokens, firsts_ = (
            native.ffi.cast("int64_t *", values.ctypes.data) for values in given
        )
        firsts_ = native.ffi.NULL if firsts is None else firsts_
        number = accumulation_dtype(self.model.dtype)
        logits = place(np.full(self.rows * self.model.vocab, UNWRITTEN, number))
        status = native.cpu().nck_decode_rows(
            self.handle, rows_, len(rows), tokens, ids.shape[1], firsts_, pointer(logits), threads
        )
        if status == OK:
            for place_, row in enumerate(rows):
                begins = self.counts[row] if firsts is None else firsts[place_]
                self.counts[row] = begins + ids.shape[1]
        return status, logits.reshape(self.rows, -1)

    def write_rows(
        self, rows: Sequence[int], newest: Sequence[int], random: NDArray[np.uint64], /, *,
        first_end: int, **changed: Any,
    ) -> tuple[int, NDArray[np.int64], int]:  # fmt: skip
        """Return the status, the (steps, rows) tokens and the steps done of nck_write_rows."""
        place, ffi = self.model.place, native.ffi
        number = accumulation_dtype(self.model.dtype)
        logits = place(np.full(self.rows * self.model.vocab, UNWRITTEN, number))
        tokens, done = place(np.full(random.size, -7)), place(np.full(1, -7))
        given = [place(np.array(values)) for values in (rows, newest, random.ravel())]
        arguments = {
            "decoder": self.handle, "rows": ffi.cast("int64_t *", given[0].ctypes.data),
            "count": len(rows), "newest": ffi.cast("int64_t *", given[1].ctypes.data),
            "logits": pointer(logits), "vocab": self.model.vocab,
            "dtype": native.DTYPES[np.dtype(number).name], "mixture": ffi.NULL,
            "contexts": ffi.NULL, "random": ffi.cast("uint64_t *", given[2].ctypes.data),
            "temperature": 0.9, "top_k": 9, "top_p": 1.0, "first_end": first_end,
            "steps": len(random), "tokens": ffi.cast("int64_t *", tokens.ctypes.data),
            "done": ffi.cast("int64_t *", done.ctypes.data), "threads": 1, "draw_threads": 1,
            **changed,
        }  # fmt: skip
        status = native.cpu().nck_write_rows(*arguments.values())
        return int(status), tokens.reshape(random.shape), int(done[0])

    def read(self, ids: NDArray[np.int64], threads: int = 1) -> NDArray[Any]:
        """Read the next (rows, length) tokens and return the (rows, vocab) logits after them."""
        status, logits = self.call(ids, self.count, threads)
        assert status == OK, last_error()
        self.count += ids.shape[1]
        return logits
