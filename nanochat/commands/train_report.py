"""What `nanochat train` tells a person: the model and the text before a run, the result after it.

train.py runs the stages; this file owns their messages.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nanochat.commands.baseline import (
    Counting,
    baseline_metrics,
    comparison,
    counted_baseline,
)
from nanochat.commands.resuming import to_train_longer
from nanochat.config.options import RUNS_DIR, TrainConfig
from nanochat.data.conversations import as_text, first_questions, turns_of_tokens
from nanochat.data.corpus import data_name
from nanochat.data.dataset import Dataset
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.errors import RunInterrupted
from nanochat.model.model_file import ModelFile, changes_of
from nanochat.model.parameters import table_entries
from nanochat.ngram.baseline import Baseline
from nanochat.output.loss_curve import write_loss_curve
from nanochat.output.run_summary import run_summary, scores_of
from nanochat.output.terminal import Terminal
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.counts_facts import without_rare
from nanochat.runs.find import weights_bytes
from nanochat.runs.folder import RunFolder
from nanochat.sampling.generate import generate, phrase_bias, prompt_tokens, sampling_settings
from nanochat.sampling.mixed import mixed_with
from nanochat.sampling.preview import Preview
from nanochat.system.wording import amount, counted, printable
from nanochat.training.engine import Engine
from nanochat.training.metrics import metrics_line

if TYPE_CHECKING:
    from nanochat.training.deadline import Deadline

__all__ = ["Run", "announce", "finish", "preview", "with_way_on"]

STYLE_WEIGHT = 1.0
_PLAIN = {"scalar": "scalars", "tensor": "torch"}


class Run(Protocol):
    """The parts of a run that its messages need."""

    config: TrainConfig  # resolved
    dataset: Dataset
    engine: Engine
    own: ModelFile | None  # with the model of the config
    folder: RunFolder | None  # None in processes above rank 0, which write nothing
    resumed_from: Checkpoint | None
    initialized_from: Mapping[str, Any] | None  # the record of the run whose weights it began with
    terminal: Terminal
    deadline: Deadline | None  # of a run with a time budget
    baseline: Counting | None  # from the start of training

    def show_notes(self) -> None: ...


def announce(
    run: Run,
    params: int,
    mode_reason: str,  # why mode auto took this engine; empty if the mode was given
) -> None:
    """Show the model, the text and the checkpoint that the run starts from."""
    config, dataset, terminal = run.config, run.dataset, run.terminal
    reason = f" ({mode_reason})" if mode_reason else ""
    tables = ""
    if config.prev_token_tables or config.hash_embed_rows:  # otherwise the tables are a small part
        entries = table_entries(config, dataset.tokenizer.vocab_size, changes_of(run.own, config))
        tables = f" ({entries:,} of them table entries)"
    if config.model_kind == "ngram":
        terminal.note(_counts_in_words(dataset))
    else:
        terminal.note(
            f"{config.model_kind} {config.preset}: {counted(params, 'parameter')}{tables},"
            f" {config.mode} engine, {config.device} {config.dtype}{reason}"
        )
    if run.own is not None:
        terminal.note(
            f"the model is that of {printable(run.own.path)}, in plain {_PLAIN[config.mode]}"
        )
    for note in dataset.notes:
        terminal.note(note)
    train, kind = dataset.train, "document" if dataset.train.is_target is None else "conversation"
    terminal.note(
        f"{data_name(config.data)}: {counted(train.count, kind)},"
        f" {counted(dataset.train.token_count, 'token')} to train on,"
        f" {dataset.val.token_count:,} to validate on, vocabulary"
        f" {dataset.tokenizer.vocab_size}"
    )
    if train.is_target is not None:
        terminal.note(
            f"the loss is that of replies alone: {train.targets:,} of {train.token_count:,} tokens"
            f" to train on, {dataset.val.targets:,} of {dataset.val.token_count:,} to validate on"
        )
    if dataset.counts is not None and config.model_kind != "ngram":
        size = amount(dataset.counts.bytes)
        terminal.note(
            f"mixed with counted n-grams of order {config.ngram_order}: {size} of"
            f" counts{_which_hold(dataset.counts)}"
        )
        assert dataset.by_counts is not None
        trained = dataset.by_counts.documents.pairs
        if trained < dataset.train.pairs:
            terminal.note(
                f"few steps need only part of the text: training uses {trained:,} of"
                f" {dataset.train.pairs:,} tokens"
            )
    if config.log == "tensorboard" and run.folder is not None:
        folder = shlex.quote(str(run.folder.path))
        terminal.note(f"to see the curves: tensorboard --logdir {folder}")
    run.show_notes()
    if config.preset == "gpt2-124m" and config.device == "cpu":
        terminal.warn("preset gpt2-124m is made for a GPU; a step on a CPU takes many minutes")
    if run.resumed_from is not None:
        step, path = run.resumed_from.trainer.step, run.resumed_from.path
        terminal.note(f"resuming from {path} after step {step}")
        if step == config.steps:
            longer = to_train_longer(config, run.resumed_from.run_folder)
            terminal.note(f"that was the last of its {config.steps} steps; {longer}")
    elif run.initialized_from is not None:
        terminal.note(f"starting from the weights of {run.initialized_from['path']}")


def _counts_in_words(dataset: Dataset) -> str:
    """Describe counted n-grams that predict alone, and how much of the text they are of."""
    assert dataset.by_counts is not None
    counts, documents = dataset.counts, dataset.by_counts.documents
    text = f"order {counts.order}, {counts.entries:,} table entries ({amount(counts.bytes)})"
    words = f"counted n-grams of {text}{_which_hold(counts)}; no parameters"
    if documents.pairs == dataset.train.pairs:
        return words
    return (
        f"{words}; counted are the last {documents.pairs:,} of {dataset.train.pairs:,} tokens,"
        " to save time"
    )


def _which_hold(counts: Any) -> str:
    """Say what the counts hold of the training text."""
    if counts.cutoff is None:
        return ", which hold the training text"
    return f", {without_rare(counts.cutoff.length, counts.cutoff.count)}"


def preview(run: Run) -> Callable[[int], str]:
    """Return the function that draws the sample under an evaluation, given its largest width."""
    config, tokenizer = run.config, run.dataset.tokenizer
    maker: list[Preview] = []

    def text(columns: int) -> str:
        if not maker:  # made when it is first shown: most runs never show it
            (context, *_), start = _contexts(run, 1), None
            if isinstance(tokenizer, ChatTokenizer):
                start = f"{tokenizer.decode(context)} → "
            bias = phrase_bias(tokenizer, config.style, STYLE_WEIGHT)
            settings = sampling_settings(config)
            model = mixed_with(run.engine, run.dataset.counts, config.threads)
            maker.append(Preview(model, tokenizer, context, settings, bias=bias, start=start))
        return maker[0].text(columns)

    return text


def with_way_on(
    stopped: RunInterrupted, folder: RunFolder | None, model_file: str | None
) -> RunInterrupted:
    """Return the interruption with the command that resumes the run."""
    if folder is None:
        return stopped
    command = f"nanochat train --resume --out {shlex.quote(str(folder.path))}"
    if model_file is not None:
        command += f" --model-file {shlex.quote(model_file)}"
    return RunInterrupted(stopped.what, f"resume with: {command}")


def finish(run: Run, metrics: Mapping[str, Any]) -> tuple[Sequence[str], Path]:
    """Write the result and the loss curve, show samples and the result; return the samples and the
    run's folder."""
    config, dataset, terminal = run.config, run.dataset, run.terminal
    run.show_notes()
    baseline = counted_baseline(run.baseline, terminal, run.deadline)
    path = Path(config.out or RUNS_DIR)
    if run.folder is not None:
        path = run.folder.path
        run.folder.check_in_place()
        counted_metrics = baseline_metrics(baseline)
        size = {
            "table_entries": table_entries(
                config, dataset.tokenizer.vocab_size, changes_of(run.own, config)
            ),
            "count_entries": dataset.counts.entries if dataset.counts is not None else 0,
            "weights_bytes": weights_bytes(path, metrics["best_step"]),
        }
        run.folder.write_json(
            run.folder.result,
            {**metrics, **size, **counted_metrics, "split_sha256": dataset.split_sha256},
        )
        title = f"{data_name(config.data)}, {config.model_kind}, {config.mode}"
        write_loss_curve(
            run.folder.metrics, run.folder.plot, title,
            counting_loss=baseline.loss if baseline else None,
        )  # fmt: skip
    try:
        samples = _samples(run)
    except KeyboardInterrupt:
        terminal.note(f"the run is complete and saved in {path}; only its samples are missing")
        raise
    terminal.samples([sample.strip() for sample in samples])
    if baseline is not None:
        compared = comparison(
            baseline, metrics["val_loss"], metrics["val_bpb"],
            overfits=config if metrics["best_step"] < metrics["steps"] else None,
        )  # fmt: skip
        line, *advice = compared.splitlines()
        for text in advice if terminal.is_for_people else (line, *advice):
            terminal.note(text)
    if terminal.is_for_people and run.folder is not None:
        for line in _summary(run, run.folder, metrics, baseline):
            terminal.result(line)
    else:
        terminal.result(metrics_line(metrics))
        terminal.result(f"run: {path}")
    terminal.json_result({"metrics": metrics, "samples": samples, "run": path})
    return samples, path


def _samples(run: Run) -> list[str]:
    config, tokenizer = run.config, run.dataset.tokenizer
    bias = phrase_bias(tokenizer, config.style, STYLE_WEIGHT)
    started = time.perf_counter()
    deadline = run.deadline
    model = mixed_with(run.engine, run.dataset.counts, config.threads)
    cut = deadline.cuts_samples if deadline is not None else (lambda: False)
    contexts = _contexts(run, config.num_samples)
    if isinstance(tokenizer, ChatTokenizer) and run.dataset.train.is_target is not None:
        samples = []
        for number, context in enumerate(contexts):
            if cut():
                break
            (text,) = generate(
                model, tokenizer, context, sampling_settings(config), 1, first_row=number, stop=cut
            )
            reply = text.removeprefix(tokenizer.decode(context))
            samples.append(f"{as_text(turns_of_tokens(tokenizer, context))}{reply}")
    else:
        samples = generate(
            model, tokenizer, contexts[0], sampling_settings(config), config.num_samples,
            bias=bias, stop=cut,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    if samples:
        run.terminal.note(f"{counted(len(samples), 'sample')} in {seconds:.1f} s")
    if deadline is not None and deadline.samples_were_cut:
        run.terminal.note(
            "the samples end with the time budget; `nanochat sample` writes longer ones"
        )
    return samples


def _contexts(run: Run, most: int) -> list[list[int]]:
    """Return what the samples start from: the start of a text, or held-out questions."""
    config, dataset = run.config, run.dataset
    tokenizer = dataset.tokenizer
    if isinstance(tokenizer, ChatTokenizer) and dataset.train.is_target is not None:
        questions = dataset.val if dataset.val.count else dataset.train
        return first_questions(tokenizer, questions, most, config.block_size)
    return [prompt_tokens(tokenizer, "", dataset.start, config.block_size)]


def _summary(
    run: Run, folder: RunFolder, metrics: Mapping[str, Any], baseline: Baseline | None
) -> list[str]:
    way_on = None
    if run.config.model_kind == "ngram":
        data = shlex.join(run.config.data)
        way_on = f"add a network: nanochat train {data} --ngram-order {run.config.ngram_order}"
    return run_summary(
        folder=folder.path,
        val_source=run.dataset.val_source,
        val_loss=metrics["val_loss"],
        val_bpb=metrics["val_bpb"],
        steps=metrics["steps"],
        evaluations=scores_of(folder.metrics),
        train_loss=metrics["mean_loss_last_50"],
        counting_bpb=baseline.bpb if baseline else None,
        way_on=way_on,
        enough=run.deadline is not None and run.deadline.needs_no_more(metrics["steps"]),
    )
