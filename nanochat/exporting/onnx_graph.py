"""One ONNX file of a network, with the keys and values of earlier tokens as inputs and outputs.

Any number of rows and of new tokens: the first call reads a prompt with a past of length 0, and
each further call gets the keys and values that the call before has returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import MissingDependency
from nanochat.exporting.network import Known, Network, Run, check_has_blocks
from nanochat.exporting.tokenizer_json import tokenizer_json
from nanochat.model.parameters import RMSNORM_EPS, rotary_angles
from nanochat.system.json_text import json_bytes

__all__ = ["KNOWN", "load_and_run", "write"]

KNOWN: Known = {
    "model_kind": ("bigram", "mini-gpt"), "model_file": (None,), "activation": ("relu", "relu2"),
    "positions": ("learned", "rope"), "prev_token_tables": (0,), "hash_embed_rows": (0,),
    **dict.fromkeys(
        ("n_layer", "n_head", "n_embd", "block_size", "hash_embed_longest", "ngram_order",
         "tie_lm_head", "input_rmsnorm", "output_rmsnorm", "qk_norm", "logit_softcap")
    ),
}  # fmt: skip

FILE = "model.onnx"
_OPSET, _IR_VERSION = 18, 8  # of 2022: the operations need no newer ones
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType


def write(network: Network, folder: Path, weights: str) -> None:
    """Write model.onnx with weights of type f32, and tokenizer.json.

    Raises UnsupportedOption for a network without blocks, and MissingDependency without onnx.
    """
    check_has_blocks(network.config, "onnx")
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"export to onnx needs {error.name}, which is not installed; pip install"
            " 'nanochat-lab[onnx]'"
        ) from error
    graph = _Graph(network)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(kind, *ends, **details) for kind, *ends, details in graph.nodes],
            network.name,
            [onnx.helper.make_tensor_value_info(*each) for each in graph.inputs],
            [onnx.helper.make_tensor_value_info(*each) for each in graph.outputs],
            [onnx.numpy_helper.from_array(each, name) for name, each in graph.needed().items()],
        ),
        producer_name="nanochat", ir_version=_IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, folder / FILE)
    tokenizer = tokenizer_json(network.tokenizer, opens_with_bos=network.opens_with_bos)
    (folder / "tokenizer.json").write_bytes(json_bytes(tokenizer))


class _Graph:
    """The operations and constants of a network. A method returns the name of its result."""

    def __init__(self, network: Network) -> None:
        config = self.config = network.config
        self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.inputs: list[tuple[str, int, list[int | str]]] = [("tokens", _INT64, ["rows", "new"])]
        self.outputs: list[tuple[str, int, list[int | str]]] = [
            ("logits", _FLOAT, ["rows", "new", network.tokenizer.vocab_size])
        ]
        self._weights = {**network.weights, "wte": network.embedding}
        self._zero, self._one = self.constant("zero", 0), self.constant("one", 1)
        self._last = self.constant("last_axis", [-1])
        self._epsilon = self.constant("epsilon", np.float32(RMSNORM_EPS))
        x = self.op("Gather", self._weight("wte"), "tokens")
        if config.model_kind == "mini-gpt":
            self._look_at_the_past()
            if config.positions == "learned":
                wpe = self.op("Gather", self._weight("wpe"), self._positions)
                x = self.op("Add", x, wpe)
            if config.input_rmsnorm:
                x = self._rmsnorm(x)
            for layer in range(config.n_layer):
                x = self._block(layer, x)
        elif config.input_rmsnorm:
            x = self._rmsnorm(x)
        if config.output_rmsnorm:
            x = self._rmsnorm(x)
        logits = self._product(x, self.constant("head", network.head))
        if config.logit_softcap:
            cap = self.constant("softcap", np.float32(config.logit_softcap))
            logits = self.op("Mul", self.op("Tanh", self.op("Div", logits, cap)), cap)
        self.op("Identity", logits, to="logits")

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def needed(self) -> dict[str, NDArray[Any]]:
        """Return the constants that an operation reads; onnxruntime warns about others."""
        read = {name for _, inputs, *_ in self.nodes for name in inputs}
        return {name: value for name, value in self.constants.items() if name in read}

    def op(self, kind: str, *inputs: str, to: str | None = None, **details: Any) -> str:
        (result,) = self._op(kind, inputs, 1 if to is None else [to], details)
        return result

    def _op(
        self, kind: str, inputs: Sequence[str], results: int | list[str], details: dict[str, Any]
    ) -> list[str]:
        if isinstance(results, int):
            results = [f"{kind.lower()}_{len(self.nodes)}_{i}" for i in range(results)]
        self.nodes.append((kind, list(inputs), results, details))
        return results

    def _weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def _product(self, x: str, weight: str) -> str:  # (…, in), (out, in) -> (…, out)
        return self.op("MatMul", x, self.op("Transpose", weight, perm=[1, 0]))

    def _rmsnorm(self, x: str) -> str:
        mean = self.op("ReduceMean", self.op("Mul", x, x), self._last, keepdims=1)
        return self.op("Div", x, self.op("Sqrt", self.op("Add", mean, self._epsilon)))

    def _look_at_the_past(self) -> None:
        """Compute the positions of the new tokens, (new,), and which tokens each sees, (new,
        all), from the length of the past."""
        config = self.config
        for layer in range(config.n_layer):
            for what in ("key", "value"):
                shape: list[int | str] = ["rows", config.n_head, "past", config.head_dim]
                self.inputs.append((f"past.{layer}.{what}", _FLOAT, shape))
                shape = ["rows", config.n_head, "all", config.head_dim]
                self.outputs.append((f"present.{layer}.{what}", _FLOAT, shape))
        two = self.constant("two", 2)
        past = self.op("Gather", self.op("Shape", "past.0.key"), two)
        new = self.op("Gather", self.op("Shape", "tokens"), self._one)
        length = self.op("Add", past, new)
        self._positions = self.op("Range", past, length, self._one)
        everything = self.op("Range", self._zero, length, self._one)
        row = self.op("Unsqueeze", self._positions, self._last)
        self._seen = self.op("LessOrEqual", everything, row)
        self._by_head = self.constant("by_head", [0, 0, config.n_head, config.head_dim])
        self._joined = self.constant("joined", [0, 0, config.n_embd])
        self._scale = self.constant("attention_scale", np.float32(config.head_dim**-0.5))
        self._hidden = self.constant("of_a_hidden_key", np.float32(-np.inf))
        if config.positions == "rope":
            angles = rotary_angles(np.arange(config.block_size), config.head_dim)
            self._cos, self._sin = (
                self.op("Gather", self.constant(name, table.astype(np.float32)), self._positions)
                for name, table in zip(("cos", "sin"), angles, strict=True)
            )

    def _block(self, layer: int, x: str) -> str:
        x = self.op("Add", x, self._attention(layer, self._rmsnorm(x)))
        hidden = self._of_layer(layer, "mlp_fc1", self._rmsnorm(x))
        active = self.op("Relu", hidden)
        if self.config.activation == "relu2":
            active = self.op("Mul", active, active)
        return self.op("Add", x, self._of_layer(layer, "mlp_fc2", active))

    def _of_layer(self, layer: int, name: str, x: str) -> str:
        return self._product(x, self._weight(f"layer{layer}.{name}"))

    def _attention(self, layer: int, x: str) -> str:
        q, k, v = (
            self.op(
                "Transpose",
                self.op("Reshape", self._of_layer(layer, name, x), self._by_head),
                perm=[0, 2, 1, 3],
            )
            for name in ("attn_wq", "attn_wk", "attn_wv")
        )  # (rows, heads, new, head_dim)
        q, k = self._rotated_and_normed(q), self._rotated_and_normed(k)
        k, v = (
            self.op("Concat", f"past.{layer}.{what}", new, to=f"present.{layer}.{what}", axis=2)
            for what, new in (("key", k), ("value", v))
        )
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Where", self._seen, self.op("Mul", scores, self._scale), self._hidden)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        mixed = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self._joined)
        return self._of_layer(layer, "attn_wo", mixed)

    def _rotated_and_normed(self, x: str) -> str:
        if self.config.positions == "rope":
            first, second = self._op("Split", [x], 2, {"axis": -1, "num_outputs": 2})
            ahead = self.op("Mul", first, self._cos), self.op("Mul", second, self._sin)
            behind = self.op("Mul", second, self._cos), self.op("Mul", first, self._sin)
            x = self.op("Concat", self.op("Add", *ahead), self.op("Sub", *behind), axis=-1)
        return self._rmsnorm(x) if self.config.qk_norm else x


def load_and_run(
    folder: Path,
    rows: NDArray[np.int64],  # (rows, length)
    texts: Sequence[str],
) -> Run:
    """Run the file in onnxruntime, the second half of each row with the past of the first."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"export to onnx is verified with onnxruntime, and {error.name} is not installed;"
            " pip install 'nanochat-lab[onnx]', or give --no-verify"
        ) from error
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    past = {
        each.name: np.zeros((len(rows), each.shape[1], 0, each.shape[3]), np.float32)
        for each in session.get_inputs()[1:]
    }
    logits = []
    for tokens in np.array_split(rows, min(2, rows.shape[1]), axis=1):
        found, *present = session.run(None, {"tokens": tokens, **past})
        logits.append(found)
        past = dict(zip(past, present, strict=True))
    return Run(
        program=f"onnxruntime {onnxruntime.__version__}", logits=np.concatenate(logits, axis=1),
        ids=None,
    )  # fmt: skip
