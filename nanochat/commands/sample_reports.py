"""What `nanochat sample` tells next to its texts: explanations of tokens, and copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanochat.commands.copies import SampleCopies, marked, report_copies, report_text
from nanochat.config.options import SampleConfig
from nanochat.data.dataset import Dataset, SplitText
from nanochat.data.tokenizer import Tokenizer
from nanochat.output.explanation import explanation_record, explanation_text, legend
from nanochat.output.terminal import Terminal
from nanochat.sampling.explain import Explainer
from nanochat.sampling.sampling import OpensDecoders

__all__ = ["SampleReports"]


class SampleReports:
    """The reports that the options ask for, about the samples that `engine` draws."""

    def __init__(
        self,
        engine: OpensDecoders,
        tokenizer: Tokenizer,
        context: Sequence[int],  # the tokens that each sample starts from
        config: SampleConfig,
        training: tuple[SplitText, Dataset] | None,  # None: no report of copies
    ) -> None:
        self._tokenizer, self._config, self._training = tokenizer, config, training
        self._tokens = [list(context) for _ in range(config.num_samples)]
        self._explainer = Explainer(engine, config.num_samples) if config.explain else None
        self._copies: list[SampleCopies] = []
        self.engine = self._explainer or engine

    def keep(self, step: Sequence[int | None]) -> None:
        """Take the tokens that were just drawn, one per sample; None: the sample has ended."""
        for row, token in zip(self._tokens, step, strict=True):
            if token is not None:
                row.append(token)
        if self._explainer is not None:
            self._explainer.keep(step)

    def record(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the reports for --json, once the texts are complete."""
        record: dict[str, Any] = {}
        if self._training is not None:
            least = self._config.report_copies
            self._copies = report_copies(texts, self._tokens, least, *self._training)
            record["copies"] = [report.to_dict() for report in self._copies]
        if self._explainer is not None:
            text_of = self._tokenizer.token_text
            record["explanations"] = [
                [explanation_record(each, text_of) for each in row] for row in self._explainer.rows
            ]
        return record

    def shown(self, number: int, text: str) -> str:
        """Return a text, from 0, as people see it: with its copies marked."""
        return marked(self._copies[number]) if self._copies else text

    def write_table(self, number: int, terminal: Terminal) -> None:
        """Write what belongs below one sample, from 0."""
        if self._explainer is not None:
            explanations = self._explainer.rows[number]
            rows = explanation_text(explanations, self._tokenizer.token_text)
            terminal.result(f"\n{rows}\n")

    def write_summary(self, terminal: Terminal) -> None:
        """Write what belongs below all samples."""
        if self._training is not None:
            _, dataset = self._training
            terminal.result(report_text(self._copies, self._config.report_copies, dataset))
        if self._explainer is not None:
            terminal.note(legend(self._explainer.rows[0]))
