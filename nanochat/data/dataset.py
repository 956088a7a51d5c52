"""Build the dataset of a config: text → corpus → split → tokenizer → tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig, options_of
from nanochat.config.preset_choice import TextFacts
from nanochat.data.batches import (
    Batch,
    Batcher,
    PairValues,
    evaluation_batches,
    make_batcher,
    resolve_batching,
)
from nanochat.data.conversations import Conversations, encode_conversations
from nanochat.data.corpus import Corpus, data_name, load_corpus, must_fit
from nanochat.data.documents import Documents, encode_and_free, encode_documents
from nanochat.data.sources.fetching import Fetched, keep_sources
from nanochat.data.special_tokens import ChatTokenizer, plain_tokenizer
from nanochat.data.splits import Split, count_shared, split_documents, without_duplicates
from nanochat.data.style import style_documents
from nanochat.data.texts import Texts
from nanochat.data.token_checks import smallest_type
from nanochat.data.tokenizer import BOS, CharTokenizer, Tokenizer, build_tokenizer
from nanochat.data.vocabulary import covering
from nanochat.errors import CorpusError, TokenizerError
from nanochat.system.wording import counted

__all__ = [
    "CHAT",
    "ByCounts",
    "Dataset",
    "SplitText",
    "load_dataset",
    "read_text",
    "start_text",
    "text_facts",
    "token_options",
]

EVAL_TOKENS = 4096  # per evaluation batch, at least: smaller batches leave cores idle
LARGE = 1 << 26  # bytes; the memory of a smaller text is never given up
# Unicode 16 has 154,998 characters. Each one needs a row of the embedding and of the output head.
MOST_CHARACTERS = 1 << 18
CHAT = "chat"  # the option documents of conversations


@dataclass(frozen=True, slots=True, kw_only=True)
class ByCounts:
    """The probabilities of all targets by counted n-grams, for a model that mixes with them.

    Counted n-grams alone are not trained: `documents` are those counted, and `train` is empty.
    """

    model: Any  # an ngram.KneserNey of the training part, which this floor does not know
    documents: Documents  # that the network is trained on: the training part or some of it
    parts: int  # of the text, in tenths, that they are
    train: NDArray[np.float32]  # (documents.pairs,) by the counts of other parts of the text
    val: PairValues  # (val.pairs,)
    is_best: bool = False  # the order was chosen, as that of the counting baseline is


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The text of a run as tokens, and everything that is known about it."""

    tokenizer: Tokenizer
    train: Documents
    val: Documents
    val_source: str  # val, train or none
    split_sha256: str
    batching: str  # windows, packed or documents
    start: list[int]  # tokens that a sample without a prompt starts from
    warning: str | None  # one sentence for the user about the split
    documents: str  # the unit of a document, as the option documents has it
    separator: str | None  # between documents, as the option separator has it
    notes: tuple[str, ...]  # sentences for the user about the sources
    fetched: tuple[Fetched, ...]  # standard input and URLs, which the run folder keeps
    by_counts: ByCounts | None = None  # if n-grams are counted

    @property
    def counts(self) -> Any:
        """The counts of the run's n-grams, or None."""
        return None if self.by_counts is None else self.by_counts.model

    def longest_segment(self, block_size: int) -> int:
        """Return the positions of the longest segment in training or validation."""
        parts = (self.train.lengths, self.val.lengths)
        return min(block_size, 1 + max(int(lengths.max(initial=0)) for lengths in parts))

    def batcher(self, config: TrainConfig, rank: int = 0, world: int = 1) -> Batcher:
        """Return the batcher of the training part."""
        return make_batcher(
            resolve_batching(config.batching, self.train, config.block_size),
            self.by_counts.documents if self.by_counts else self.train,
            batch_size=config.batch_size, block_size=config.block_size,
            grad_accum=config.grad_accum, seed=config.seed, rank=rank, world=world,
            by_counts=self.by_counts.train if self.by_counts else None,
        )  # fmt: skip

    def rebatched(self, config: TrainConfig) -> Dataset:
        """Return the dataset of a config with the same `token_options`."""
        batching = resolve_batching(config.batching, self.train, config.block_size)
        return replace(self, batching=batching)

    def evaluation_set(self, config: TrainConfig) -> Sequence[Batch]:
        """Return the batches of the validation part, limited to the eval_tokens of the config."""
        return evaluation_batches(
            self.val, batch_size=max(config.batch_size, EVAL_TOKENS // config.block_size),
            block_size=config.block_size, max_tokens=config.eval_tokens, seed=config.seed,
            by_counts=self.by_counts.val if self.by_counts else None,
        )  # fmt: skip

    def validation_batches(self, config: TrainConfig) -> Sequence[Batch]:
        """Return the batches of the whole validation part."""
        return evaluation_batches(
            self.val, batch_size=max(config.batch_size, EVAL_TOKENS // config.block_size),
            block_size=config.block_size, by_counts=self.by_counts.val if self.by_counts else None,
        )  # fmt: skip

    def step_tokens(self, config: TrainConfig, world: int = 1) -> int:
        """Return the targets of an average step, for a resolved batching."""
        pairs = self.step_pairs(config, world)
        if self.train.is_target is None:
            return pairs
        return max(1, round(pairs * self.train.targets / self.train.pairs))

    def step_pairs(self, config: TrainConfig, world: int = 1) -> int:
        """Return the tokens that an average step reads, for a resolved batching."""
        rows = config.batch_size * config.grad_accum * world
        if config.batching == "documents":
            lengths = np.minimum(self.train.lengths + 1, config.block_size)
            return round(rows * float(lengths.mean()))
        return rows * min(config.block_size, self.train.pairs)

    def resolve(self, config: TrainConfig) -> TrainConfig:
        """Return the config with the choices that depend on the text: a resume repeats them."""
        order = self.by_counts.model.order if self.by_counts else config.ngram_order
        return config.changed(
            batching=self.batching, documents=self.documents, separator=self.separator,
            ngram_order=order,
        )  # fmt: skip

    def keep_sources(self, folder: Path) -> None:
        """Write copies of standard input and URLs into a run folder, for resume and eval."""
        keep_sources(self.fetched, folder)

    def describe(self) -> dict[str, Any]:
        """Return the record of the data that artifacts keep. It never contains the text."""
        return {
            "split_sha256": self.split_sha256,
            "val_source": self.val_source,
            "train_documents": self.train.count,
            "train_tokens": self.train.token_count,
            "val_documents": self.val.count,
            "val_tokens": self.val.token_count,
            "start": self.start,
        }


@dataclass(slots=True, kw_only=True)
class SplitText:
    """The text of a run before it is tokens."""

    kept: Split | None  # None: its memory was given up
    read_again: Callable[[], SplitText]
    sha256: str  # of the split
    name: str  # of the text, for messages
    unit: str  # of a document, as the option documents has it
    separator: str | None  # between documents, as the option separator has it
    notes: tuple[str, ...]  # sentences for the user about the sources
    fetched: tuple[Fetched, ...]  # standard input and URLs, which the run folder keeps

    @property
    def split(self) -> Split:
        """The text in two parts, which is read again if it was given up. Raises CorpusError."""
        if self.kept is None:
            again = self.read_again()
            if again.sha256 != self.sha256:
                raise CorpusError(
                    f"{self.name} changed since it was read; run the command again when it is"
                    " complete"
                )
            self.kept = again.kept
        assert self.kept is not None
        return self.kept

    def give_up(self) -> None:
        """Forget the split: its memory is freed when no one else refers to it."""
        self.kept = None


def read_text(
    config: TrainConfig,
    folder: Path | None = None,  # of a run that has copies of standard input and URLs
) -> SplitText:
    """Read and split the config's corpus. Raises CorpusError."""
    with must_fit(data_name(config.data)):
        return _read_text(config, folder)


def _read_text(config: TrainConfig, folder: Path | None) -> SplitText:
    corpus = load_corpus(
        config.data, config.documents, config.data_dir, separator=config.separator,
        text_column=config.text_column, folder=folder,
    )  # fmt: skip
    found, notes = corpus.documents, corpus.notes
    if config.deduplicate:
        found = without_duplicates(found)
        dropped = len(corpus.documents) - len(found)
        notes += (f"{corpus.name}: {counted(dropped, 'exact duplicate')} removed",)
    is_chat = corpus.kind == "chat"
    split = split_documents(found, config.val_fraction, config.seed, whole=is_chat)
    if corpus.reason:
        notes += (_choice(corpus, len(found), config.val_fraction, split),)
    return SplitText(
        kept=split,
        read_again=lambda: read_text(config, folder),
        sha256=split.sha256,
        name=corpus.name,
        unit=corpus.kind if corpus.kind in _UNIT_OPTIONS else _unit_option(corpus),
        separator=corpus.separator,
        notes=notes,
        fetched=corpus.fetched,
    )


def token_options(config: TrainConfig) -> tuple[Any, ...]:
    """Return the options on which the tokens of a config's text depend."""
    declared = options_of(TrainConfig)
    data = [name for name in declared if declared[name].group == "Data" and name != "batching"]
    return tuple(getattr(config, name) for name in (*data, "seed"))


def text_facts(text: SplitText) -> TextFacts:
    """Return what the choice of a preset reads of the training part.

    The alphabet, and the bytes per character, are those of the first chunk that has any: all of a
    small text.
    """
    train = text.split.train
    size = int(train.lengths.sum())
    first = next(str(chunk, "utf-8") for chunk in train.chunks() if chunk)
    characters = round(size * len(first) / len(first.encode()))
    return TextFacts(
        size=size,
        characters=characters,
        document=characters / len(train),
        alphabet=len(set(first)),
    )


def load_dataset(
    config: TrainConfig,
    known: Tokenizer | None = None,  # of a trained model; None: the text's own
    *,
    extend: bool = False,  # add the text's new characters to `known`
    folder: Path | None = None,  # of a run that has copies of standard input and URLs
    text: SplitText | None = None,  # of this config, if it was read before
) -> Dataset:
    """Read, split and tokenize the config's corpus. Raises CorpusError, TokenizerError."""
    text = text or read_text(config, folder)
    with must_fit(text.name):
        return _tokenized(config, known, text, extend=extend)


def _tokenized(
    config: TrainConfig, known: Tokenizer | None, text: SplitText, *, extend: bool
) -> Dataset:
    if text.unit == CHAT:
        return _tokenized_conversations(config, known, text, extend=extend)
    split = text.split
    train: Sequence[str] = split.train
    if config.style == "futuristic":
        train = Texts.of([*split.train, *style_documents()])
    if known is None:
        tokenizer = build_tokenizer(
            config.tokenizer, train, split.val, config.vocab_size, config.bpe_pattern
        )
    else:
        tokenizer = covering(known, (train, split.val), extend=extend)
    if known is None or extend:
        _check_alphabet(tokenizer, text.name)
    start = start_text(tokenizer, len(split.train))
    warning = split.warning or _shared_warning(split, train)
    val_source, val = split.val_source, encode_documents(tokenizer, split.val, text.name)
    documents: Documents
    if isinstance(tokenizer, CharTokenizer) and _takes_too_much(tokenizer, train):
        waiting = [Texts.of(train)]
        text.give_up()
        del split, train  # encode_and_free has the only reference
        documents = encode_and_free(tokenizer, waiting)
    else:
        documents = encode_documents(tokenizer, train, text.name)
    return Dataset(
        tokenizer=tokenizer,
        train=documents,
        val=val,
        val_source=val_source,
        split_sha256=text.sha256,
        batching=resolve_batching(config.batching, documents, config.block_size),
        start=start,
        warning=warning,
        documents=text.unit,
        separator=text.separator,
        notes=text.notes,
        fetched=text.fetched,
    )


def _tokenized_conversations(
    config: TrainConfig, known: Tokenizer | None, text: SplitText, *, extend: bool
) -> Dataset:
    split = text.split
    train, val = Conversations.of(split.train), Conversations.of(split.val)
    plain = None if known is None else plain_tokenizer(known)
    if plain is None:
        parts = train.messages, val.messages
        plain = build_tokenizer(config.tokenizer, *parts, config.vocab_size, config.bpe_pattern)
    else:
        plain = covering(plain, (train.messages, val.messages), extend=extend)
    if known is None or extend:
        _check_alphabet(plain, text.name)
    tokenizer = ChatTokenizer(plain)
    documents = encode_conversations(tokenizer, train, text.name)
    return Dataset(
        tokenizer=tokenizer,
        train=documents,
        val=encode_conversations(tokenizer, val, text.name),
        val_source=split.val_source,
        split_sha256=text.sha256,
        batching=resolve_batching(config.batching, documents, config.block_size),
        start=[BOS],
        warning=split.warning or _shared_warning(split, split.train),
        documents=text.unit,
        separator=text.separator,
        notes=text.notes,
        fetched=text.fetched,
    )


def _check_alphabet(tokenizer: Tokenizer, name: str) -> None:
    """Raise CorpusError for more different characters than any writing has."""
    if isinstance(tokenizer, CharTokenizer) and len(tokenizer.characters) > MOST_CHARACTERS:
        raise CorpusError(
            f"{name} must have at most {MOST_CHARACTERS:,} different characters for tokenizer char,"
            f" got {len(tokenizer.characters):,}; use --tokenizer byte"
        )


def _takes_too_much(tokenizer: CharTokenizer, train: Sequence[str]) -> bool:
    """Return whether text and tokens together take about three times the size of a large text."""
    is_wide = smallest_type(tokenizer.vocab_size).itemsize > 1
    return is_wide and int(Texts.of(train).lengths.sum()) >= LARGE


def _unit_option(corpus: Corpus) -> str:
    return "auto" if corpus.kind == "separator" else "file"  # records stay records


_UNIT_OPTIONS = ("line", "paragraph", CHAT)
_UNITS = {
    "chat": "conversation",
    "line": "line",
    "paragraph": "paragraph",
    "separator": "piece",
    "file": "document",
}
_ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth", 10: "tenth", 20: "twentieth"}


def _choice(corpus: Corpus, count: int, val_fraction: float, split: Split) -> str:
    """Say what `--documents auto` found and which documents validate."""
    unit = _UNITS[corpus.kind]
    found = f"{corpus.name}: {count:,} {unit}{'s' * (count != 1)} ({corpus.reason})"
    if split.val_source != "val":
        return found
    ordinal = _ORDINALS.get(round(1 / val_fraction))
    exact = ordinal is not None and math.isclose(val_fraction, 1 / round(1 / val_fraction))
    percent = f"{100 * val_fraction:g} %"
    if count == 1:
        return f"{found}; its last {ordinal if exact else percent} validates"
    if count < 2 / val_fraction:  # "every tenth" of three documents would be none
        verb = "validates" if len(split.val) == 1 else "validate"
        return f"{found}; {len(split.val)} of them, drawn by the seed, {verb}"
    if exact:
        return f"{found}; every {ordinal}, drawn by the seed, validates"
    return f"{found}; {percent} of them, drawn by the seed, validate"


def _shared_warning(split: Split, train: Sequence[str]) -> str | None:
    """Warn when documents that validation should hold out are also trained on."""
    shared = count_shared(train, split.val) if split.val_source == "val" else 0
    if not shared:
        return None
    return (
        f"{shared:,} of {len(split.val):,} validation documents also occur in the training part,"
        " so the validation loss is lower than on new text; remove copies with --deduplicate"
    )


def start_text(tokenizer: Tokenizer, train_documents: int) -> list[int]:
    """Return the tokens that a sample without a prompt starts from.

    BOS opens every document. A model of one long document has seen it only once, so its samples
    start from a newline if the vocabulary has one.
    """
    if train_documents == 1:
        try:
            return [int(token) for token in tokenizer.encode("\n")]
        except TokenizerError:
            return [BOS]
    return [BOS]
