"""The words of the page around its views: titles, leads, and where the numbers come from."""

from __future__ import annotations

from nanochat.inspection.trace import Trace
from nanochat.system.wording import printable

__all__ = ["TITLES", "sources", "view_words"]

TITLES = {
    "loss": "Loss",
    "forward": "Forward",
    "gradients": "Gradients",
    "attention": "Attention",
    "lens": "Logit lens",
    "parameter": "Parameter history",
    "embeddings": "Embeddings",
    "importance": "What matters",
    "compare": "Comparison",
    "tokenizer": "Tokenizer",
}
_LEADS = {
    "loss": "How much each token surprised the model. Choose one to see what it expected there.",
    "forward": "Every number of the model on this text, in the order they are computed. Open a"
    " number to see its formula and operands.",
    "gradients": "What a small increase of each number would do to the mean loss. Orange raises it,"
    " blue lowers it. Open a number to see where its gradient comes from.",
    "attention": "Each row is a token that looks back; each column a token that it sees. The"
    " stronger a cell's color, the more attention it gets.",
    "lens": "What the model would predict if it stopped after each stage. The stronger a cell's"
    " color, the likelier the token that really came.",
    "embeddings": "The vectors of the tokens, seen along the two directions in which they differ"
    " most. Neighbors point the same way in all dimensions, not only in these two.",
    "importance": "How much the loss on this text rises, in nats per token, if a part is removed."
    " Orange parts help; blue ones are in the way.",
}
_SPLITS = {
    "char": "Each character is one token.",
    "byte": "Each byte is one token.",
    "bpe": "The text is cut into words. Each word starts as its bytes; then the pair that was"
    " learned first is merged, again and again.",
}


def view_words(trace: Trace) -> dict[str, dict[str, str]]:
    """Return the title and the lead of each view, in the order of the page."""
    leads = _LEADS | {"tokenizer": _SPLITS[trace.tokenizer.kind]}
    if trace.tokenizer.kind != "bpe":
        leads["tokenizer"] += " Below each is its number; the text starts and ends with token 0."
    return {name: {"title": title, "lead": leads.get(name, "")} for name, title in TITLES.items()}


_FOLLOWING = (
    "The logit lens, the changes without a part, the maps, and what the counts say are computed"
    " from these numbers, the weights and the counts."
)
_BY_THE_PAGE = (
    "Formulas, sums and differences are computed by this page in float64. It asks nothing of any"
    " server."
)


def sources(trace: Trace) -> list[str]:
    """Return where the numbers come from: the pass, what follows from it, and the page."""
    dtype, own = trace.config.dtype, trace.trained.own
    if trace.config.mode == "scalar":
        order = "of microgpt" if own is None else f"in which {printable(own.path)} computes"
        numbers = (
            f"bit-identical to the scalar engine's exact numerics in {dtype}: one operation per"
            f" number, in the order {order}. Training with fast numerics adds"
        )
    else:
        model = "the plain torch model" if own is None else f"the model of {printable(own.path)}"
        numbers = f"those of {model} in {dtype}, with torch's gradients. A training step may add"
    passed = (
        f"Activations, losses and gradients are {numbers} in another order, so its numbers may"
        " differ by rounding. A parameter history has the numbers of the training."
    )
    return [passed, _FOLLOWING, _BY_THE_PAGE]
