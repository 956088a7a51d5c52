"""A text to score, and the text of a run, read again from its sources and checked."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.config.options import TrainConfig
from nanochat.data.corpus import data_name
from nanochat.data.dataset import Dataset, SplitText, load_dataset, read_text
from nanochat.data.documents import Documents
from nanochat.data.sources.locating import NotFound
from nanochat.data.texts import Texts
from nanochat.errors import CheckpointError, CorpusError
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.own_text import check_own_text

__all__ = ["ScoredText", "text_of_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredText:
    """A text as the model and as a compressor read it."""

    name: str
    documents: Documents
    texts: Texts | None  # None: not needed
    unit: str  # of a document
    separator: str | None  # between documents, as the option separator has it
    is_training: bool = False  # a text that is too small for a validation part

    @property
    def text_bytes(self) -> int:
        """Bytes of the documents, without separators."""
        assert self.texts is not None
        return int(self.texts.lengths.sum())


def text_of_run(
    checkpoint: Checkpoint,
    config: TrainConfig,  # of the run
    data_dir: str | None,  # instead of that of the run
    way_out: str,  # the end of the message if the text has changed
) -> tuple[SplitText, Dataset]:
    """Return the two parts of the text that the run was trained on, as text and as tokens.

    Raises CorpusError if the text cannot be read, CheckpointError if it has changed.
    """
    check_own_text(checkpoint, way_out)
    name = data_name(config.data)
    options = config.changed(data_dir=data_dir or config.data_dir)
    try:
        text = read_text(options, checkpoint.run_folder)
    except NotFound as error:
        raise CorpusError(f"{error}; {way_out}") from None
    if text.sha256 != checkpoint.data["split_sha256"]:
        raise CheckpointError(f"the text {name} differs from that of {checkpoint.path}; {way_out}")
    tokenizer = checkpoint.built_tokenizer()
    return text, load_dataset(config, tokenizer, text=text)
