"""One scorer for every side: the nats of all validation bytes under a checkpoint.

    python -m bench.race.scorer KIND CHECKPOINT VALIDATION_FILE [CHECKOUT]

KIND is ours, nanogpt or nanochat for a text. Every byte is then a target once (those of the first
token only if the model starts from BOS), in disjoint windows of the checkpoint's own context; a
window does not see the previous one, but counts read the tokens before it. KIND is ours-lines or
eemicrogpt if each line is a document, which is scored from its first letter to its end. The side
computes float32 logits. The scorer computes the loss of all sides from them in float64. Prints one
JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bench.command import command_parser
from bench.race.data import documents

# Nothing of this project is imported here: karpathy/nanochat is a package of the same name.

ROWS = 64  # windows scored together
Windows = Iterator[tuple[Tensor, Tensor]]  # (rows, length) inputs and targets


@dataclass(frozen=True)
class Scored:
    """The model and the validation tokens of a side."""

    # (rows, length) tokens → (rows, length, vocab); None: the counts predict alone
    logits: Callable[[Tensor], Tensor] | None
    windows: Windows
    context: int  # tokens per window
    bytes: int  # in the targets
    parameters: int
    ignored: int = -1  # a target that is not scored: BOS
    by_counts: Tensor | None = None  # (targets,) float64, in the order of the windows
    count_entries: int = 0  # of the table of counts
    # Scale and offset of the last logit less the log sum of the others: the result is the logarithm
    # of the counts' share against that of the tokens.
    share: tuple[float, float] = (1.0, 0.0)


def windows(ids: np.ndarray, context: int) -> Windows:
    """Yield the whole windows of a token stream, then the rest. The first token is not a target."""
    whole = (len(ids) - 1) // context
    tokens = torch.from_numpy(ids.astype(np.int64))
    inputs = tokens[: whole * context].view(whole, context)
    targets = tokens[1 : whole * context + 1].view(whole, context)
    for first in range(0, whole, ROWS):
        yield inputs[first : first + ROWS], targets[first : first + ROWS]
    if whole * context < len(ids) - 1:
        yield tokens[whole * context : -1][None], tokens[whole * context + 1 :][None]


def windows_from(start: int, ids: np.ndarray, context: int) -> Windows:
    """Yield windows that each start with the token `start`. All of `ids` are targets."""
    tokens = torch.from_numpy(ids.astype(np.int64))
    whole = len(ids) // context * context
    for part in (tokens[:whole].view(-1, context), tokens[whole:][None]):
        for first in range(0, len(part) if part.numel() else 0, ROWS):
            targets = part[first : first + ROWS]
            starts = torch.full((len(targets), 1), start)
            yield torch.cat([starts, targets[:, :-1]], 1), targets


def windows_of_lines(start: int, lines: Sequence[np.ndarray]) -> Windows:
    """Yield each line with the token `start` before and after it, grouped by length."""
    for same in by_length(lines):
        tokens = torch.from_numpy(
            np.stack([np.concatenate([[start], each, [start]]) for each in same])
        )
        yield tokens[:, :-1], tokens[:, 1:]


def by_length(lines: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Return the lines of each length."""
    found: dict[int, list[np.ndarray]] = defaultdict(list)
    for line in lines:
        found[len(line)].append(line)
    return list(found.values())


def nats(scored: Scored) -> float:
    """Return the sum over all targets that are not ignored."""
    total, first = 0.0, 0
    with torch.no_grad():
        for inputs, targets in scored.windows:
            counted = None
            if scored.by_counts is not None:
                counted = scored.by_counts[first : first + targets.numel()].view_as(targets)
                first += targets.numel()
            if scored.logits is None:
                assert counted is not None
                total -= float(counted.log().sum())
                continue
            logits = scored.logits(inputs).double()
            if counted is not None:  # the last logit is that of their share
                logits, last = logits[..., :-1], logits[..., -1]
            log_sum = torch.logsumexp(logits, -1)
            predicted = logits.gather(-1, targets[..., None])[..., 0] - log_sum
            if counted is not None:
                scale, offset = scored.share
                log_odds = scale * (last - log_sum) + offset
                of_network, of_counts = logsigmoid(-log_odds), logsigmoid(log_odds)
                predicted = torch.logaddexp(predicted + of_network, counted.log() + of_counts)
            total -= float(predicted[targets != scored.ignored].sum())
    return total


def load_ours(checkpoint: Path, text: str, lines: bool = False) -> Scored:
    from nanochat.config.options import EvalConfig
    from nanochat.data.batches import Batch
    from nanochat.data.tokenizer import BOS
    from nanochat.ngram.share import start_offset
    from nanochat.runs.load import load_trained, read_checkpoint

    found, config, _ = read_checkpoint(str(checkpoint))
    alone = config.model_kind == "ngram"  # counts without a network
    options = EvalConfig(checkpoint=str(checkpoint))
    if not alone:  # the tensor engine reads the checkpoints of both engines
        options = dataclasses.replace(options, mode="tensor", dtype="float32")
    trained = load_trained(options, found, config)
    engine = trained.engine

    def logits(inputs: Tensor) -> Tensor:
        tokens = inputs.numpy()
        rows, length = tokens.shape
        batch = Batch(
            inputs=tokens, targets=np.zeros_like(tokens),
            positions=np.tile(np.arange(length), (rows, 1)), segments=np.zeros_like(tokens),
            lengths=np.full(rows, length), global_targets=tokens.size,
        )  # fmt: skip
        hidden = engine.model.hidden(engine._inputs(batch))
        result = (hidden @ engine.model.head.t()).view(*inputs.shape, -1).double()
        cap = trained.config.logit_softcap
        return cap * torch.tanh(result / cap) if cap else result

    size = sum(weight.size for weight in found.state.weights.values())
    scale, offset = found.state.share
    share = scale, scale * start_offset(trained.tokenizer.vocab_size) + offset
    context = trained.config.block_size
    if lines:
        rows = [np.asarray(trained.tokenizer.encode(line)) for line in text.splitlines()]
        counted = by_counts(trained.counts, [line for same in by_length(rows) for line in same])
        scored = windows_of_lines(BOS, rows)
        return Scored(
            None if alone else logits, scored, context, len(text), size, -1, *counted, share
        )
    ids = np.asarray(trained.tokenizer.encode(text))
    targets = int(trained.tokenizer.token_bytes[ids[1:]].sum())
    counted = by_counts(trained.counts, [ids], slice(1, -1))  # without the first token and the end
    return Scored(
        None if alone else logits, windows(ids, context), context, targets, size, -1, *counted,
        share,
    )  # fmt: skip


def by_counts(
    counts: Any, documents: Sequence[np.ndarray], scored: slice = slice(None)
) -> tuple[Tensor | None, int]:
    """Return the probability of each target of the documents, and the size of the table."""
    from nanochat.data.documents import Documents

    if counts is None:
        return None, 0
    offsets = np.cumsum([0, *map(len, documents)])
    nats = counts.token_losses(Documents.of(np.concatenate(documents), offsets))
    return torch.from_numpy(np.exp(-nats[scored])), len(counts.arrays()["followers"])


def load_nanogpt(checkpoint: Path, text: str, checkout: Path) -> Scored:
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
    ids, context = np.array([number[c] for c in text]), saved["model_args"]["block_size"]

    def logits(inputs: Tensor) -> Tensor:
        result: Tensor = model(inputs, inputs)[0]  # without targets it gives only the last logits
        return result

    size = sum(p.numel() for p in model.parameters())
    return Scored(logits, windows(ids, context), context, len(text) - 1, size)


def load_nanochat(checkpoint: Path, text: str, checkout: Path) -> Scored:
    """Load a checkpoint. BOS precedes each document and window, as in its training."""
    import os

    os.environ["NANOCHAT_BASE_DIR"] = str(checkpoint.parent.parent)
    sys.path.insert(0, str(checkout))
    from nanochat.checkpoint_manager import load_model

    cpu = torch.device("cpu")
    model, tokenizer, meta = load_model("base", cpu, phase="eval", model_tag=checkpoint.name)
    bos, context = tokenizer.get_bos_token_id(), meta["model_config"]["sequence_len"]
    rows = tokenizer.encode(documents(text), prepend=bos)
    ids = np.array([token for row in rows for token in row][1:])
    size = sum(p.numel() for p in model.parameters())
    return Scored(model, windows_from(bos, ids, context), context, len(text), size, ignored=bos)


def load_eemicrogpt(checkpoint: Path, text: str) -> Scored:
    """Load the weights in the order of its struct, and compute its forward pass.

    The model has one block, four heads, ReLU, and RMSNorm of the embedding, before attention and
    before the MLP.
    """
    flat = torch.from_numpy(np.fromfile(checkpoint, dtype=np.float32))
    bos, context = 26, 16
    n_embd = round((math.sqrt(4900 + 48 * len(flat)) - 70) / 24)  # 12 n_embd² + 70 n_embd weights
    shapes = {
        "token": (27, n_embd), "position": (context, n_embd), "query": (n_embd, n_embd),
        "key": (n_embd, n_embd), "value": (n_embd, n_embd), "out": (n_embd, n_embd),
        "expand": (4 * n_embd, n_embd), "contract": (n_embd, 4 * n_embd), "head": (27, n_embd),
    }  # fmt: skip
    parts = flat.split([math.prod(shape) for shape in shapes.values()])
    weights = {
        name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }

    def norm(x: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x, (n_embd,), eps=1e-5)

    def logits(inputs: Tensor) -> Tensor:
        rows, length = inputs.shape
        x = norm(weights["token"][inputs] + weights["position"][:length])
        q, k, v = (
            (norm(x) @ weights[name].t()).view(rows, length, 4, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.transpose(1, 2).reshape(rows, length, n_embd) @ weights["out"].t()
        x = x + torch.relu(norm(x) @ weights["expand"].t()) @ weights["contract"].t()
        return x @ weights["head"].t()

    lines = [np.frombuffer(line.encode(), np.uint8).astype(np.int64) for line in text.splitlines()]
    scored = windows_of_lines(bos, [line - ord("a") for line in lines])
    return Scored(logits, scored, context, len(text), len(flat))


LOADERS = {
    "ours": load_ours, "ours-lines": partial(load_ours, lines=True), "nanogpt": load_nanogpt,
    "nanochat": load_nanochat, "eemicrogpt": load_eemicrogpt,
}  # fmt: skip


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("kind", choices=LOADERS)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("checkout", type=Path, nargs="*")
    options = parser.parse_args()
    text = options.validation.read_bytes().decode("ascii")
    sys.stdout, out = sys.stderr, sys.stdout  # a side's own output goes to stderr
    scored = LOADERS[options.kind](options.checkpoint, text, *options.checkout)
    total = nats(scored)
    sys.stdout = out
    score = total / scored.bytes
    record = {"nats": total, "bytes": scored.bytes, "parameters": scored.parameters}
    record |= {
        "count_entries": scored.count_entries,
        "context": scored.context,
        "score": score,
        "bpb": score / math.log(2),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
