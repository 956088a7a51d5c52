"""The views of `nanochat inspect` as text, at most 80 columns wide.

Leaves out what the numbers are (inspection/) and the page, which has every number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.tokenizer import BOS
from nanochat.inspection.comparison import Comparison
from nanochat.inspection.graph import Operation, operations
from nanochat.inspection.trace import Trace
from nanochat.output.explanation import END
from nanochat.output.table import table_text
from nanochat.output.text import display_width, quoted
from nanochat.system.wording import counted
from nanochat.training.history import History

__all__ = ["view_text"]

WIDTH = 80
_PIECE = 12  # columns of a token
_MOST_PARTS = 10  # of the model, in the view of what matters

# Backgrounds from blue (sure) over gray to orange (surprised), which every kind of color vision
# tells apart; xterm's 256 colors.
_COLORS = (24, 31, 67, 109, 145, 180, 179, 172, 166)
_LIGHT = (145, 180, 179)
_MOST_NATS = 4.0

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE = 24  # columns, at most


def view_text(
    name: str,
    trace: Trace,
    facts: Mapping[str, Any],
    comparison: Comparison | None,
    history: History | None = None,
    *,
    color: bool,
    encoding: str = "utf-8",
) -> str:
    """Return one view, by its name."""

    def piece(token: int) -> str:
        return END if token == BOS else quoted(trace.tokenizer.token_text(token), _PIECE, encoding)

    if name == "loss":
        table = _loss(trace, facts, piece)
        return f"{_colored(trace, encoding)}\n\n{table}" if color else table
    if name == "compare":
        assert comparison is not None
        return _compare(comparison)
    if reason := name in ("lens", "importance") and facts["left_out"].get(name):
        return f"{name} is left out: {reason}"
    views: Mapping[str, Callable[[], str]] = {
        "forward": lambda: _arrays(trace, trace),
        "gradients": lambda: _arrays(trace, trace.gradients),
        "attention": lambda: _attention(trace, piece),
        "lens": lambda: _lens(trace, piece),
        "embeddings": lambda: _embeddings(trace, facts, piece),
        "importance": lambda: _importance(trace, facts, piece),
        "parameter": lambda: _histories(history, facts),
        "tokenizer": lambda: _tokenizer(trace, facts, piece),
    }
    return views[name]()


def _colored(trace: Trace, encoding: str) -> str:
    """Return the text with a background per token: its loss."""
    parts = []
    for token, nats in zip(trace.targets.tolist(), trace["losses"].tolist(), strict=True):
        text = END if token == BOS else quoted(trace.tokenizer.token_text(token), WIDTH, encoding)
        share = min(nats / _MOST_NATS, 1.0)
        shade = _COLORS[round(share * (len(_COLORS) - 1))]
        shown = text if token == BOS else text[1:-1]
        ink = 16 if shade in _LIGHT else 231  # black or white
        parts.append(f"\x1b[48;5;{shade};38;5;{ink}m{shown}")
    scale = "".join(f"\x1b[48;5;{shade}m  " for shade in _COLORS)
    return f"{''.join(parts)}\x1b[0m\n{scale}\x1b[0m 0 … {_MOST_NATS:g} nats or more"


def _loss(trace: Trace, facts: Mapping[str, Any], piece: Callable[[int], str]) -> str:
    mixed = trace.text.by_counts is not None
    header = ["", "token", "nats", "prob", *(["network", "counts"] if mixed else [])]
    rows = []
    chosen = trace["probabilities"][np.arange(len(trace.targets)), trace.targets]
    for index, target in enumerate(trace.targets.tolist()):
        nats = float(trace["losses"][index])
        row = [str(index), piece(target), f"{nats:.3f}", _figure(np.exp(-nats))]
        if trace.text.by_counts is not None:
            row += [_figure(chosen[index]), _figure(trace.text.by_counts[index])]
        rows.append(row)
    used = [max(map(display_width, column)) for column in zip(header, *rows, strict=True)]
    room = WIDTH - sum(used) - 2 * len(used)
    for row, likeliest in zip(rows, facts["likeliest"], strict=True):
        row.append(
            _fitting([f"{piece(e['token'])} {_figure(e['probability'])}" for e in likeliest], room)
        )
    numbers = [0, *range(2, len(header))]
    table = table_text([*header, "likeliest"], rows, numbers=numbers, rich=False)
    return f"{table}\nmean {trace.mean:.4f} nats per token"


def _arrays(trace: Trace, arrays: Mapping[str, Any]) -> str:
    """Return a line per array: what computes it, and how large its numbers are."""
    rows = []
    for each in operations(trace.config, trace, trace.trained.own):
        array = arrays[each.name]
        seen = array[np.isfinite(array)]
        figures = [np.sqrt(np.mean(seen**2)), seen.min(), seen.max()] if seen.size else []
        rows.append([
            each.name, " × ".join(map(str, array.shape)),
            *([f"{figure:.3g}" for figure in figures] or 3 * ["–"]),
            _place(each),
        ])  # fmt: skip
    header = ["array", "shape", "rms", "min", "max", "line"]
    return table_text(header, rows, numbers=(2, 3, 4), rich=False)


def _place(operation: Operation) -> str:
    """Return the line of an operation; the folder of the user's own file is shown too."""
    file, line = operation.line
    parts = file.split("/")
    return f"{'/'.join(parts[-2:] if operation.kind == 'own' else parts[-1:])}:{line}"


def _attention(trace: Trace, piece: Callable[[int], str]) -> str:
    """Return for each head and token the keys that it attends to most."""
    names = [name for name in trace if name.endswith("attn.weights")]
    if not names:
        return "the model has no attention"
    reads = ["(start)", *map(piece, trace.tokens[1:].tolist())]
    blocks = []
    for name in names:
        for head, weights in enumerate(trace[name]):
            rows = []
            for query, row in enumerate(weights):
                order = np.argsort(-row[: query + 1], kind="stable").tolist()
                seen = [f"{reads[key]} {_figure(row[key])}" for key in order]
                rows.append([str(query), reads[query], _fitting(seen, WIDTH - _PIECE - 8)])
            header = ["", "token", f"{name.partition('.')[0]} head {head} attends to"]
            blocks.append(table_text(header, rows, numbers=(0,), rich=False))
    return "\n\n".join(blocks)


def _lens(trace: Trace, piece: Callable[[int], str]) -> str:
    """Return for each stage its loss, and for each token what it would predict there."""
    lens = trace.logit_lens()
    room = WIDTH - 24
    rows = []
    for stage, logits, losses in zip(lens.stages, lens.logits, lens.losses, strict=True):
        best = [piece(token) for token in logits.argmax(axis=-1).tolist()]
        rows.append([stage, f"{losses.mean():.3f}", _fitting(best, room)])
    table = table_text(
        ["after", "nats", "likeliest next token, per token"], rows, numbers=(1,), rich=False
    )
    return f"{table}\nnats of the network alone, if the model ended there"


def _embeddings(trace: Trace, facts: Mapping[str, Any], piece: Callable[[int], str]) -> str:
    """Return the nearest neighbours of the tokens of the text."""
    rows = []
    for token in dict.fromkeys(trace.tokens.tolist()):
        near = facts["embeddings"]["neighbours"][token]
        shown = [f"{piece(other)} {cosine:.2f}" for other, cosine in near]
        rows.append([piece(token), _fitting(shown, WIDTH - _PIECE - 4)])
    return table_text(["token", "nearest in wte, by cosine"], rows, rich=False)


def _histories(history: History | None, facts: Mapping[str, Any]) -> str:
    """Return a line per recorded parameter, with its curve over the steps."""
    if history is None:
        return (
            "the run has recorded no parameter; nanochat train --record auto keeps what\nhappens to"
            " some parameters at every step"
        )
    rows = []
    for place in history.places:
        one = history.parameter(*place)
        top = int(np.abs(one.gradient).argmax())
        rows.append([
            str(place), f"{one.weight[0]:.3g}", f"{one.weight[-1] + one.update[-1]:.3g}",
            f"{one.gradient[top]:.2g}", str(one.steps[top]),
        ])  # fmt: skip
    header = ["parameter", "first", "last", "top gradient", "at step"]
    used = sum(max(map(len, column)) + 2 for column in zip(header, *rows, strict=True))
    for row, place in zip(rows, history.places, strict=True):
        row.append(_curve(history.parameter(*place).weight, min(WIDTH - used, _CURVE)))
    table = table_text([*header, "weight"], rows, numbers=(1, 2, 3, 4), rich=False)
    steps = history.chosen.steps
    end = (
        f"parameter history: {counted(len(steps), 'recorded step')} from {steps[0]:,} to"
        f" {steps[-1]:,}\ngradients, moments and updates are on the page"
    )
    on_page = len(facts["history"]["tables"][0]["steps"])
    if on_page < len(steps):
        end += f", for {on_page:,} of these steps;\n--max-numbers adds more"
    return f"{table}\n{end}"


def _curve(numbers: NDArray[np.float64], columns: int) -> str:
    """Return the course of some numbers, as blocks of eight heights."""
    parts = [part.mean() for part in np.array_split(numbers, min(columns, len(numbers)))]
    low, span = min(parts), max(parts) - min(parts)
    return "".join(_BLOCKS[int((part - low) / span * 7.99) if span else 0] for part in parts)


def _importance(trace: Trace, facts: Mapping[str, Any], piece: Callable[[int], str]) -> str:
    """Return the parts whose removal changes the loss most."""
    found = facts["importance"]
    changes = []
    for layer, heads in enumerate(found["heads"]):
        changes += [(change, f"layer {layer} head {head}") for head, change in enumerate(heads)]
    for layer, neurons in enumerate(found["neurons"] or []):
        changes += [(change, f"layer {layer} neuron {n}") for n, change in enumerate(neurons)]
    for index, change in enumerate(found["positions"] or []):
        text = piece(int(trace.tokens[index])) if index else "(start)"
        changes.append((change, f"token {index} {text}, for later tokens"))
    changes.sort(key=lambda each: -abs(each[0]))
    rows = [[f"{change:+.4f}", part] for change, part in changes[:_MOST_PARTS]]
    table = table_text(["nats per token", "without"], rows, numbers=(0,), rich=False)
    return f"{table}\nthe largest changes of {len(changes):,} parts; + means that the part helps"


def _compare(comparison: Comparison) -> str:
    rows = []
    for each in comparison.differences:
        if each.largest is None:
            rows.append([each.name, "only in one, or of another shape", "", "", ""])
        elif each.index is None:
            rows.append([each.name, "equal", "", "", ""])
        else:
            assert each.here is not None
            assert each.there is not None
            place = ",".join(map(str, each.index))
            rows.append(
                [each.name, f"{each.largest:.2g}", place, f"{each.here:.9g}", f"{each.there:.9g}"]
            )
    header = ["array", "largest difference", "at", "here", "there"]
    table = table_text(header, rows, numbers=(3, 4), rich=False)
    first = comparison.first
    end = "every number is equal" if first is None else f"first to differ: {first.name}"
    return f"{table}\n{end}"


def _tokenizer(trace: Trace, facts: Mapping[str, Any], piece: Callable[[int], str]) -> str:
    """Return the tokens of the text and, of byte-pair encoding, the merges of each word."""
    tokens = [f"{piece(token)} {token}" for token in trace.targets.tolist()]
    lines = _wrapped(tokens, WIDTH)
    for word in facts["merges"] or []:
        shown = quoted(word["word"], 20)
        steps = [" ".join(piece(token) for token in step) for step in word["steps"]]
        lines += ["", f"{shown}, {len(steps) - 1} merges", *(f"  {step}" for step in steps)]
    return "\n".join([f"tokenizer {trace.tokenizer.kind}: tokens and ids", *lines])


def _figure(probability: float) -> str:
    return f"{probability:.2f}"


def _fitting(parts: Sequence[str], room: int) -> str:
    """Return as many parts as fit, in order."""
    shown = ""
    for part in parts:
        longer = f"{shown}, {part}" if shown else part
        if display_width(longer) > room:
            break
        shown = longer
    return shown


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if display_width(longer) > width and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines
