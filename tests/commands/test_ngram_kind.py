"""Runs of counted n-grams alone: trained, resumed, evaluated, sampled, loaded, ablated."""

from __future__ import annotations

import io
import json
import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from oracles.kneser_ney import KneserNeyOracle
from safetensors.numpy import load_file

import nanochat
from nanochat.cli import main
from nanochat.config.options import EvalConfig, SampleConfig, TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.errors import CheckpointError, RunInterrupted, UnsupportedOption
from nanochat.ngram import baseline
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.runs.checkpoint import load_checkpoint
from nanochat.runs.counts import counts_of

KIND = {
    "model_kind": "ngram", "data": "names.txt", "documents": "line", "num_samples": 2,
    "max_new_tokens": 8, "out": "run",
}  # fmt: skip
WORDS = ("train", "names.txt", "--model-kind=ngram", "--documents=line")


@pytest.fixture
def run(folder):
    def train(**options):
        return nanochat.train(TrainConfig(**{**KIND, **options}))

    return train


@pytest.fixture
def never_counts(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("counted again")

    def start():
        monkeypatch.setattr(KneserNey, "count", refuse)

    return start


def split(**options) -> tuple[list[list[int]], list[list[int]], int]:
    """Return the documents of both parts of the text, and the size of the vocabulary."""
    dataset = load_dataset(TrainConfig(**{**KIND, **options}))
    return lists(dataset.train), lists(dataset.val), dataset.tokenizer.vocab_size


def lists(documents) -> list[list[int]]:
    tokens, offsets = documents.tokens.tolist(), documents.offsets.tolist()
    return [tokens[a:b] for a, b in pairwise(offsets)]


def counts_file(run: str = "run") -> Path:
    (path,) = Path(run, "counts").glob("ngram-*.safetensors")
    return path


def result_of(run: str = "run") -> dict:
    return json.loads(Path(run, "result.json").read_text())


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_the_score_is_that_of_the_oracle_for_every_tokenizer(run, tokenizer):
    options = {"tokenizer": tokenizer, **({"vocab_size": 260} if tokenizer == "bpe" else {})}
    result = run(**options, ngram_order=3)
    train, val, vocab = split(**options)
    losses = KneserNeyOracle(train, 3, vocab).losses(val)
    assert result.metrics["val_loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-12)
    ends = np.cumsum([len(document) + 1 for document in val]) - 1
    of_text = math.fsum(losses) - math.fsum(np.array(losses)[ends])
    size = sum(map(len, val)) if tokenizer != "bpe" else result_bytes()
    assert result.metrics["val_bpb"] == pytest.approx(of_text / size / math.log(2), rel=1e-12)


def result_bytes() -> int:
    return nanochat.evaluate(EvalConfig(run="run")).bytes


def test_a_run_folder_holds_what_every_run_holds(run):
    result = run(ngram_order=4)
    names = {path.name for path in Path("run").iterdir()}
    assert names >= {
        "config.toml", "result.json", "metrics.jsonl", "environment.json", "checkpoints", "counts",
        "loss.svg",
    }  # fmt: skip
    assert Path("run/checkpoints/step-000000/manifest.json").is_file()
    data = json.loads(Path("run/checkpoints/step-000000/data.json").read_text())
    assert counts_file().name == f"ngram-{data['ngram_sha256']}.safetensors"
    evaluations = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [(e["kind"], e["step"], e["val_loss"]) for e in evaluations] == [
        ("eval", 0, result.metrics["val_loss"])
    ]
    assert len(result.samples) == 2


def test_parameters_are_none_and_the_entries_of_the_counts_are_told(run, cli):
    run(ngram_order=4)
    stored = load_file(counts_file())
    entries = sum(len(stored[name]) for name in ("nodes", "children", "followers"))
    saved = result_of()
    assert (saved["params"], saved["table_entries"], saved["count_entries"]) == (0, 0, entries)
    text = "table entries of counts, which hold the training text"
    assert f"model: ngram, 0 parameters, {entries:,} {text}\n" in (cli("runs", "show", "run").out)
    (record,) = json.loads(cli("runs", "--dir=.", "--json").out)["runs"]
    assert (record["params"], record["count_entries"]) == (0, entries)


def test_a_mixture_reports_the_entries_of_its_counts_too(run, tiny):
    run(ngram_order=4)
    nanochat.train(TrainConfig(**tiny("mini-gpt", ngram_order=4, out="mixed", num_samples=0)))
    assert result_of("mixed")["count_entries"] == result_of()["count_entries"]


def test_order_auto_is_the_default_and_that_of_the_counting_baseline(run, tiny):
    run()
    nanochat.train(TrainConfig(**tiny(out="other", num_samples=0)))
    chosen = counts_of(load_checkpoint(Path("run/checkpoints/step-000000"))).order
    assert chosen == result_of("other")["baseline_order"]
    assert nanochat.load("run").config.ngram_order == chosen
    assert result_of()["val_loss"] == pytest.approx(result_of("other")["baseline_loss"], rel=1e-12)


def test_order_is_another_spelling_of_the_flag(cli, refused, folder):
    for words in (["--order", "3"], ["--order=3"], ["--ngram-order=3"]):
        out = f"run{len(list(Path().iterdir()))}"
        assert cli(*WORDS, *words, f"--out={out}", "--num-samples=0").code == 0
        assert nanochat.load(out).config.ngram_order == 3
    message = "option --ngram-order must be given once"
    assert refused(*WORDS, "--order=3", "--ngram-order=3") == message


def test_it_is_not_compared_with_itself(cli, folder):
    told = cli(*WORDS, "--out=run")
    assert told.code == 0
    assert "counting" not in told.err + told.out
    assert not [key for key in result_of() if key.startswith("baseline")]


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_resumed_run_is_the_same_and_never_counts(run, stop_after, never_counts, is_killed):
    whole = run(out="whole")
    if is_killed:
        stop_after(0)
        with pytest.raises(RunInterrupted, match="resume with: nanochat train --resume"):
            run()
        stop_after(10**9)
    else:
        run()
    never_counts()
    again = nanochat.train(TrainConfig(resume=True, out="run", num_samples=2, max_new_tokens=8))
    assert again.metrics["val_loss"] == whole.metrics["val_loss"]
    assert again.samples == whole.samples
    counts_file()


def test_a_resume_keeps_the_order(run, refused):
    run(ngram_order=3)
    assert refused("train", "--resume", "--out=run", "--order=4") == (
        "--resume keeps the saved ngram_order 3, got 4; leave it out, or start a new run"
    )
    assert nanochat.train(TrainConfig(resume=True, out="run", ngram_order="auto")).metrics


def test_eval_and_load_score_any_text_as_the_oracle(run):
    run(ngram_order=5)
    train, _, vocab = split()
    model = nanochat.load("run")
    text = "anna\nleo\nbeacleodanellafay"
    Path("text.txt").write_text(text)
    documents = [model.tokenizer.encode(line).tolist() for line in text.split("\n")]
    expected = KneserNeyOracle(train, 5, vocab).losses(documents)
    np.testing.assert_allclose(model.loss(text).nats, expected, rtol=1e-12)
    scored = nanochat.evaluate(
        EvalConfig(run="run", data="text.txt", per_token="tokens.jsonl", batch_size=1)
    )
    assert scored.loss == pytest.approx(math.fsum(expected) / len(expected), rel=1e-12)
    rows = [json.loads(line) for line in Path("tokens.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([row["nats"] for row in rows], expected, rtol=1e-12)


def test_sample_and_load_draw_the_same_texts(run):
    first = run(ngram_order=3)
    options = {"num_samples": 2, "max_new_tokens": 8}
    assert nanochat.sample(SampleConfig(run="run", **options)) == [*first.samples]
    model = nanochat.load("run")
    assert model.generate(**options) == [*first.samples]
    assert "".join(model.stream(max_new_tokens=8)) == first.samples[0]
    stopped = model.generate("an", stop="n", max_new_tokens=30, seed=2)
    assert "n" not in stopped.removeprefix("an")
    train, _, vocab = split()
    oracle = KneserNeyOracle(train, 3, vocab)
    context = (0, *model.tokenizer.encode("an").tolist())
    found = model.next_tokens("an", k=vocab)
    expected = {
        model.tokenizer.token_text(token): oracle.probability(context, token)
        for token in range(vocab)
    }
    assert dict(found) == pytest.approx(expected, rel=1e-12)


def test_a_prompt_may_be_of_any_length(run):
    run(ngram_order=3)
    model = nanochat.load("run")
    prompt = "anna" * 2000
    assert model.generate(prompt, max_new_tokens=3).startswith(prompt)
    assert model.next_tokens(prompt) == model.next_tokens("anna")
    (text,) = nanochat.sample(SampleConfig(run="run", prompt=prompt, max_new_tokens=3))
    assert text.startswith(prompt)


def test_a_long_text_is_counted_whole_with_a_cutoff_and_the_run_says_so(
    cli, folder, stop_after, monkeypatch
):
    monkeypatch.setattr(baseline, "MOST_COUNTED", 30)
    monkeypatch.setattr(baseline, "CUT_LENGTH", 3)
    told = cli(*WORDS, "--order=4", "--out=run", "--num-samples=0")
    assert told.code == 0
    text = "without n-grams of at least 3 tokens that occur fewer than 2 times"
    assert f"{text}; no parameters" in told.err
    train, val, vocab = split()
    losses = KneserNeyOracle(train, 4, vocab, cutoff=(3, 2)).losses(val)
    assert result_of()["val_loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-12)
    scored = nanochat.evaluate(EvalConfig(run="run"))
    assert scored.loss == pytest.approx(result_of()["val_loss"], rel=1e-12)
    (facts,) = json.loads(cli("info", "run", "--json").out)["counts"]
    assert facts["cutoff"] == {"length": 3, "count": 2}
    assert facts["tokens"] == sum(len(document) + 1 for document in train)
    assert text in cli("info", "run").out
    model = nanochat.load("run")
    assert len(model.generate("an", max_new_tokens=5)) > 2
    assert nanochat.evaluate(EvalConfig(run="run", adapt=True)).loss < 10


def test_a_short_time_budget_counts_the_end_of_a_long_text_and_the_run_says_so(
    cli, folder, monkeypatch
):
    monkeypatch.setattr(baseline, "MOST_COUNTED", 30)
    monkeypatch.setattr(baseline, "COUNTED_PER_S", 1)
    told = cli(*WORDS, "--order=3", "--out=run", "--num-samples=0", "--time-budget=5s")
    assert told.code == 0
    train, val, vocab = split()
    pairs = sum(len(document) + 1 for document in train)
    assert f"counted are the last 30 of {pairs} tokens" in told.err
    # The oracle counts the end of the text: the last documents and the rest of the one before.
    stream = [token for document in train for token in (*document, 0)][-30:]
    counted = [[]]
    for token in stream:
        counted[-1].append(token) if token else counted.append([])
    losses = KneserNeyOracle(counted[:-1], 3, vocab).losses(val)
    assert result_of()["val_loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-12)


def test_a_time_budget_is_noted_and_changes_nothing(cli, run):
    plain = run()
    told = cli(*WORDS, "--time-budget=5s", "--out=other", "--num-samples=0")
    assert told.code == 0
    assert "5s: counted n-grams have no steps to choose" in told.err
    assert result_of("other")["val_loss"] == plain.metrics["val_loss"]


def test_without_validation_text_it_counts_and_samples(run):
    result = run(val_fraction=0)
    assert result.metrics["val_loss"] is None
    assert len(result.samples) == 2


def test_nothing_starts_from_counts_and_counts_start_from_nothing(run, refused, tiny):
    run()
    nanochat.train(TrainConfig(**tiny("mini-gpt", out="gpt", num_samples=0)))
    assert refused("train", "--init-from=run") == (
        "init_from does not support model_kind ngram, got run/checkpoints/step-000000; name a run"
        " of model_kind mini-gpt, or train without init_from"
    )
    assert refused("train", "--init-from=gpt", "--model-kind=ngram").startswith(
        "init_from keeps model_kind mini-gpt of "
    )


def test_there_is_no_torch_module_of_counts(run):
    run()
    model = nanochat.load("run")
    assert (model.params, model.weights) == (0, {})
    for call in (model.to_torch, model.write_model_py):
        for options in ({}, {"network_only": True}):
            with pytest.raises(UnsupportedOption, match="needs model_kind bigram or mini-gpt, got"):
                call(**options)


def test_there_is_no_network_to_use_alone(run, refused):
    run()
    for command in ("sample", "eval"):
        assert refused(command, "run", "--network-only") == (
            "network_only needs a model with a network, got run/checkpoints/step-000000, whose"
            " model_kind is ngram; leave network_only out"
        )


def test_the_repr_has_order_and_entries_instead_of_sizes(run):
    run(ngram_order=4)
    text = repr(nanochat.load("run"))
    assert f"ngram, order 4, {result_of()['count_entries']:,} table entries, no parameters" in text
    assert "context window" not in text


def test_other_engines_are_refused_where_a_model_is_read(run, refused):
    run()
    for command in ("sample", "eval"):
        assert refused(command, "run", "--mode=tensor") == (
            "model_kind ngram does not support mode tensor; leave it out"
        )


def test_several_processes_are_refused(refused, folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert refused(*WORDS) == "model_kind ngram does not support 2 processes; start one"


def test_damaged_or_missing_counts_are_one_line(run, refused):
    run()
    path = counts_file()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    assert refused("sample", "run", code=1).startswith(f"{path} is damaged: its SHA-256 is ")
    path.unlink()
    with pytest.raises(CheckpointError, match="must hold the counts of the model"):
        nanochat.load("run")


def test_orders_are_ablated(folder):
    result = nanochat.ablate(
        nanochat.AblateConfig(vary=("ngram_order=1,2,5",), seeds=2),
        {"model_kind": "ngram", "data": "names.txt", "documents": "line"},
    )
    train, val, vocab = split(seed=1337)
    for order in (1, 2, 5):
        losses = KneserNeyOracle(train, order, vocab).losses(val)
        (row,) = [
            run for run in result.runs if (run["ngram_order"], run["seed"]) == (order, 1337)
        ]  # fmt: skip
        assert row["val_loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-12)


class TerminalText(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True


def test_a_person_sees_four_lines_of_which_the_last_adds_a_network(folder, monkeypatch):
    seen = TerminalText()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", seen)
        assert main([*WORDS, "--order=3", "--out=run"]) == 0
    bits = result_of()["val_bpb"]
    assert seen.getvalue().splitlines()[-4:] == [
        f"validation {bits:.3f} bits per byte",
        "loss curve: run/loss.svg",
        "write text: nanochat sample run",
        "add a network: nanochat train names.txt --ngram-order 3",
    ]


def test_the_help_page_of_the_kind_has_its_defaults(cli):
    page = " ".join(cli("train", "--model-kind=ngram", "--help").out.split())
    assert "--ngram-order, --order N" in page
    assert "0: the network alone. [default: auto]" in page
    assert "Number of optimizer steps. [default: 0]" in page
