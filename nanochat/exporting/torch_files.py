"""The network as a torch module in one file, model.py, with its weights: it needs torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from nanochat.errors import MissingDependency
from nanochat.exporting.network import Known, Network, Run
from nanochat.system.json_text import json_bytes

__all__ = ["KNOWN", "MODEL_PY", "load_and_run", "module_text", "write"]

MODEL_PY = "model.py"
_SOURCE = Path(__file__).parent.parent / "tensor" / "standalone_model.py"

KNOWN: Known = {
    "model_kind": ("bigram", "mini-gpt"), "model_file": (None,), "activation": ("relu", "relu2"),
    "positions": ("learned", "rope"),
    **dict.fromkeys(
        ("n_layer", "n_head", "n_embd", "block_size", "prev_token_tables", "hash_embed_rows",
         "hash_embed_longest", "ngram_order", "tie_lm_head", "input_rmsnorm", "output_rmsnorm",
         "qk_norm", "logit_softcap")
    ),
}  # fmt: skip


def module_text() -> str:
    """Return the text of model.py."""
    return _SOURCE.read_text(encoding="utf-8")


def write(network: Network, folder: Path, weights: str) -> None:
    """Write model.py, weights of type f32, the config, and the tokenizer as nanochat saves it."""
    (folder / MODEL_PY).write_text(module_text(), encoding="utf-8", newline="\n")
    (folder / "config.json").write_bytes(json_bytes(network.config.to_dict()))
    (folder / "tokenizer.json").write_bytes(json_bytes(network.tokenizer.to_dict()))
    tensors = {name: np.ascontiguousarray(array) for name, array in network.weights.items()}
    (folder / "model.safetensors").write_bytes(save(tensors))


def load_and_run(
    folder: Path,
    rows: NDArray[np.int64],  # (rows, length)
    texts: Sequence[str],
) -> Run:
    """Import model.py from the folder and run it. Raises MissingDependency without torch."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "export to torch is verified with torch, which is not installed; pip install"
            " 'torch>=2.11,<2.14', or give --no-verify"
        ) from error
    path = folder / MODEL_PY
    module = ModuleType("exported_model")  # an import would leave a cache in the folder
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), module.__dict__)
    with torch.no_grad():
        logits = module.load()(torch.from_numpy(rows)).numpy()
    return Run(program=f"torch {torch.__version__}", logits=logits, ids=None)
