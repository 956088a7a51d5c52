"""One scorer for every side: nats of each validation byte under a checkpoint, in a process.

    python bench/race_scorer.py {ours,nanogpt} CHECKPOINT VALIDATION_FILE CONTEXT [CHECKOUT]

Every byte but the first is a target once, in disjoint windows of CONTEXT bytes; a window sees
nothing of the one before. The side computes logits; the loss is computed here, in float64, for all
sides alike. Prints one JSON object.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROWS = 64  # windows scored together
Logits = Callable[[Tensor], Tensor]  # (rows, width) tokens -> (rows, width, vocab)


def windows(ids: np.ndarray, context: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets, (rows, width): whole windows together, then the rest as one."""
    whole = (len(ids) - 1) // context
    tokens = torch.from_numpy(ids.astype(np.int64))
    inputs = tokens[: whole * context].view(whole, context)
    targets = tokens[1 : whole * context + 1].view(whole, context)
    for first in range(0, whole, ROWS):
        yield inputs[first : first + ROWS], targets[first : first + ROWS]
    if whole * context < len(ids) - 1:
        yield tokens[whole * context : -1][None], tokens[whole * context + 1 :][None]


def nats(logits_of: Logits, ids: np.ndarray, context: int) -> tuple[float, int]:
    """Sum over all targets, and their number."""
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in windows(ids, context):
            logits = logits_of(inputs).double()
            log_sums = torch.logsumexp(logits, -1)
            chosen = logits.gather(-1, targets[..., None])[..., 0]
            total += float((log_sums - chosen).sum())
            count += targets.numel()
    return total, count


def load_ours(checkpoint: Path) -> tuple[Logits, Callable[[str], list[int]], int]:
    from nanochat.commands.trained import load_trained, read_checkpoint
    from nanochat.config import EvalConfig
    from nanochat.data.batches import Batch

    found, config, _ = read_checkpoint(str(checkpoint))
    trained = load_trained(EvalConfig(checkpoint=str(checkpoint)), found, config)
    engine = trained.engine

    def batch(inputs: Tensor) -> Batch:
        tokens = inputs.numpy()
        rows, width = tokens.shape
        return Batch(
            inputs=tokens, targets=np.zeros_like(tokens),
            positions=np.tile(np.arange(width), (rows, 1)), segments=np.zeros_like(tokens),
            lengths=np.full(rows, width), global_targets=tokens.size,
        )  # fmt: skip

    def logits(inputs: Tensor) -> Tensor:
        hidden = engine.model.hidden(engine._inputs(batch(inputs)))
        result = (hidden @ engine.model.head.t()).view(*inputs.shape, -1).double()
        cap = trained.config.logit_softcap
        return cap * torch.tanh(result / cap) if cap else result

    size = sum(weight.size for weight in found.state.weights.values())
    return logits, lambda text: trained.tokenizer.encode(text).tolist(), size


def load_nanogpt(
    checkpoint: Path, checkout: Path
) -> tuple[Logits, Callable[[str], list[int]], int]:
    import pickle

    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    model = GPT(GPTConfig(**saved["model_args"]))
    weights = {name.removeprefix("_orig_mod."): w for name, w in saved["model"].items()}
    model.load_state_dict(weights)
    model.eval()
    meta = checkout / "data" / "shakespeare_char" / "meta.pkl"
    number = pickle.loads(meta.read_bytes())["stoi"]

    def logits(inputs: Tensor) -> Tensor:
        result: Tensor = model(inputs, inputs)[0]  # with targets it gives logits everywhere
        return result

    size = sum(p.numel() for p in model.parameters())
    return logits, lambda text: [number[c] for c in text], size


def main() -> None:
    kind, checkpoint, validation, context = sys.argv[1:5]
    if kind == "ours":
        logits, encode, size = load_ours(Path(checkpoint))
    else:
        # Its own words go to stdout.
        sys.stdout, out = sys.stderr, sys.stdout
        logits, encode, size = load_nanogpt(Path(checkpoint), Path(sys.argv[5]))
        sys.stdout = out
    text = Path(validation).read_bytes().decode("ascii")
    total, count = nats(logits, np.array(encode(text)), int(context))
    record = {"nats": total, "targets": count, "parameters": size, "context": int(context)}
    print(json.dumps({**record, "score": total / count, "bpb": total / count / math.log(2)}))


if __name__ == "__main__":
    main()
