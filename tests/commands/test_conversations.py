"""Runs on conversations: what is recognized and told, fine-tuning, scoring, resuming, the mask."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from nonempty import nonempty
from oracles.kneser_ney import KneserNeyOracle

import nanochat
from nanochat.config.options import EvalConfig, TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.tokenizer import BOS
from nanochat.errors import ConfigError, UnsupportedOption
from nanochat.model.parameters import initial_weights
from nanochat.runs.checkpoint import load_checkpoint

QUESTIONS = ["who", "where", "why", "when", "what"]
TALKS = [
    [("user", f"{q}{i}?"), ("assistant", f"so {q}"), ("user", "thanks"), ("assistant", "ok")]
    for q in QUESTIONS
    for i in range(4)
]


def write_talks(path, talks=TALKS):
    records = [{"messages": [{"role": r, "content": t} for r, t in talk]} for talk in talks]
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def talks(folder):
    write_talks("chat.jsonl")
    return "chat.jsonl"


@pytest.fixture
def options(tiny, talks):
    def make(**changes):
        made = tiny("mini-gpt", **{"data": talks, "block_size": 24, **changes})
        del made["documents"]
        return made

    return make


def checkpoint(run, step):
    return load_checkpoint(Path(run, "checkpoints", f"step-{step:06d}"))


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_conversations_are_recognized_and_only_replies_are_learned(cli, options, flags, mode):
    result = cli("train", *flags(**options(out="run", mode=mode, num_samples=2)))
    assert result.code == 0, result.err
    assert (
        "chat.jsonl: 20 conversations (records of messages); every tenth, drawn by the seed,"
        " validates\n"
    ) in result.err
    tokens = [sum(2 + len(text) for _, text in talk) for talk in TALKS]
    learned = [sum(1 + len(t) for r, t in talk if r == "assistant") for talk in TALKS]
    found = re.search(
        r"replies alone: ([\d,]+) of ([\d,]+) tokens to train on, (\d+) of (\d+) to", result.err
    )
    counts = [int(each.replace(",", "")) for each in found.groups()]
    assert (counts[0] + counts[2], counts[1] + counts[3]) == (sum(learned), sum(tokens))
    samples = [line for line in result.out.splitlines() if line.startswith("sample ")]
    assert len(samples) == 2 and all("User: " in line for line in samples)
    assert result.out.count("\nAssistant: ") == 2
    saved = nanochat.load("run")
    assert saved.config.documents == "chat"
    assert saved.config.batching == "packed"
    assert isinstance(saved.tokenizer, ChatTokenizer)


def test_the_validation_is_that_of_a_file_of_the_same_conversations(options, folder):
    run = nanochat.train(TrainConfig(**options(out="run", num_samples=0)))
    own = nanochat.evaluate(EvalConfig(run="run"))
    assert own.loss == pytest.approx(run.metrics["val_loss"], rel=1e-12)
    held_out = nanochat.read_documents("chat.jsonl")
    assert held_out[0] == "User: who0?\nAssistant: so who\nUser: thanks\nAssistant: ok"
    both = nanochat.evaluate(EvalConfig(run="run", data="chat.jsonl"))
    assert both.bytes == sum(len(t) for talk in TALKS for r, t in talk if r == "assistant")
    adapted = nanochat.evaluate(EvalConfig(run="run", data="chat.jsonl", adapt=True))
    assert (adapted.targets, adapted.bytes) == (both.targets, both.bytes)


def test_a_file_of_losses_has_a_row_for_each_learned_token(options, folder):
    nanochat.train(TrainConfig(**options(out="run", num_samples=0)))
    for adapt in nonempty((False, True)):
        scored = nanochat.evaluate(EvalConfig(run="run", per_token="losses.jsonl", adapt=adapt))
        rows = [json.loads(line) for line in Path("losses.jsonl").read_text().splitlines()]
        assert len(rows) == scored.targets
        assert sum(row["nats"] for row in rows) / len(rows) == pytest.approx(scored.loss)
        text = "".join(row["piece"] for row in rows)
        assert set(text.split("<|end|>")) <= {"", "ok", *(f"so {q}" for q in QUESTIONS)}


COUNTED = {"counts": {"ngram_order": 3}, "no counts": {}}


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_a_mixture_predicts_each_token_of_a_reply_as_it_draws_it(options, folder, mode):
    nanochat.train(
        TrainConfig(
            **options(out="run", num_samples=0, mode=mode, ngram_order=3, block_size=40,
                      val_fraction=0.5)
        )
    )  # fmt: skip
    trained = nanochat.load("run")._trained
    scored = nanochat.evaluate(EvalConfig(run="run"))
    dataset = load_dataset(trained.config, trained.tokenizer)
    assert dataset.val.count == len(TALKS) / 2 and dataset.val.lengths.max() < 40
    stream, nats = dataset.val.stream, []
    for pair in np.flatnonzero(dataset.val.is_target):
        begin = np.flatnonzero(stream[: pair + 1] == BOS)[-1]
        logits = trained.mixture.open_decoder([stream[begin : pair + 1].tolist()]).logits[0]
        nats.append(np.logaddexp.reduce(logits.astype(np.float64)) - logits[stream[pair + 1]])
    assert scored.loss == pytest.approx(np.mean(nats), rel=1e-5)


def test_counts_alone_are_scored_on_replies_and_reply(options, folder):
    run = nanochat.train(
        TrainConfig(data="chat.jsonl", model_kind="ngram", ngram_order=6, out="run", num_samples=2)
    )
    assert {sample.split("\n")[-1] for sample in run.samples} <= {
        "Assistant: ok", *(f"Assistant: so {q}" for q in QUESTIONS)
    }  # fmt: skip
    saved = nanochat.load("run")
    dataset = load_dataset(saved.config, saved.tokenizer)
    train, val = (
        [part.tokens[a:b].tolist() for a, b in pairwise(part.offsets)]
        for part in (dataset.train, dataset.val)
    )
    losses = KneserNeyOracle(train, 6, saved.tokenizer.vocab_size).losses(val)
    expected = np.mean(np.array(losses)[dataset.val.is_target])
    assert run.metrics["val_loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("counts", COUNTED)
def test_a_run_resumes_on_its_conversations(options, stop_after, folder, counts):
    given = {"num_samples": 0, **COUNTED[counts]}
    whole = nanochat.train(TrainConfig(**options(out="whole", **given)))
    stop_after(3)
    with pytest.raises(nanochat.NanochatError):
        nanochat.train(TrainConfig(**options(out="run", **given)))
    stop_after(99)
    resumed = nanochat.train(TrainConfig(resume=True, out="run"))
    assert resumed.metrics["val_loss"] == whole.metrics["val_loss"]
    for name, weight in checkpoint("whole", 6).state.weights.items():
        np.testing.assert_array_equal(weight, checkpoint("run", 6).state.weights[name])


@pytest.mark.parametrize("way", ["train", "eval", "records"])
def test_a_mistake_is_one_line_with_file_and_line(refused, options, flags, talks, way):
    if way == "records":
        with open(talks, "a") as file:
            file.write('{"messages": [{"role": "tool", "content": "x"}]}\n')
        assert refused("train", *flags(**options())) == (
            "chat.jsonl line 21: message 1 of messages: role must be system, user or assistant (in"
            " ShareGPT system, human or gpt), got 'tool'; rename the role or remove the record"
        )
    elif way == "train":
        assert refused("train", "chat.jsonl", "--batching", "windows", "--documents", "chat") == (
            "documents chat does not support batching windows; leave batching out"
        )
    else:
        nanochat.train(TrainConfig(**{**options(out="run"), "data": "names.txt"}))
        with pytest.raises(UnsupportedOption) as caught:
            nanochat.evaluate(EvalConfig(run="run", data="chat.jsonl", documents="chat"))
        path = nanochat.load("run").checkpoint
        assert str(caught.value) == (
            f"{path} was not trained on conversations; train on some with --documents chat, or use"
            " completions"
        )


def test_baselines_that_read_whole_texts_are_refused(options, folder):
    nanochat.train(TrainConfig(**options(out="run", num_samples=0)))
    with pytest.raises(UnsupportedOption) as caught:
        nanochat.evaluate(EvalConfig(run="run", baselines=True))
    assert str(caught.value) == (
        "baselines does not support conversations, got chat.jsonl:val: compressors score whole"
        " texts, not the replies alone; leave baselines out"
    )


# -------------------------------------------------------------------------------------- fine-tuning

BASE = "so who where why when what thanks ok? 0123456789\n" * 20


def fine_tune(**options):
    given = {"data": "chat.jsonl", "init_from": "base", "num_samples": 0, "steps": 2, **options}
    return nanochat.train(TrainConfig(**given))


@pytest.fixture
def base(options, folder):
    def train(**changes):
        Path("base.txt").write_text(BASE)
        return nanochat.train(
            TrainConfig(**options(data="base.txt", out="base", num_samples=0, **changes))
        ).run

    return train


@pytest.mark.parametrize("documents", ["auto", "chat"])
@pytest.mark.parametrize(
    ("mode", "changes"),
    [("scalar", {}), ("scalar", {"ngram_order": 3}), ("tensor", {"ngram_order": 2}),
     ("tensor", {"prev_token_tables": 1}), ("scalar", {"tie_lm_head": True}),
     ("tensor", {"tokenizer": "byte"})],
)  # fmt: skip
def test_a_base_gets_the_special_tokens_and_its_run_counts_the_conversations(
    base, documents, mode, changes
):
    base(mode=mode, **changes)
    fine_tune(out="run", steps=0, documents=documents)
    tuned = nanochat.load("run")
    size = tuned.tokenizer.first_special
    old = nanochat.load("base")
    assert tuned.config.ngram_order == old.config.ngram_order == changes.get("ngram_order", 0)
    assert old.tokenizer.to_dict() == tuned.tokenizer.plain.to_dict()
    first = checkpoint("run", 0).state.weights
    drawn = initial_weights(tuned.config, tuned.tokenizer.vocab_size)
    for name, weight in old.weights.items():
        if name in ("wte", "wte1", "lm_head"):
            np.testing.assert_array_equal(first[name][:size], weight[:size])
            end = size + 4  # of the special tokens; the output head has a row for the counts too
            np.testing.assert_array_equal(
                first[name][size:end], drawn[name][size:end].astype(weight.dtype)
            )
            np.testing.assert_array_equal(first[name][end:], weight[size:])
        else:
            np.testing.assert_array_equal(first[name], weight)


@pytest.mark.parametrize("documents", ["auto", "chat"])
def test_a_base_keeps_its_order(base, folder, documents):
    base(ngram_order=3)
    with pytest.raises(ConfigError, match="^init_from keeps ngram_order 3 of .*, got 0; leave"):
        fine_tune(ngram_order=0, documents=documents)


def test_new_characters_move_the_rows_of_the_special_tokens(base, folder):
    base()
    fine_tune(out="run")
    write_talks("chat.jsonl", [[("user", "ü"), ("assistant", "é")]] * 3)
    with pytest.raises(nanochat.NanochatError, match="the model does not know: 'é' 'ü'"):
        fine_tune(init_from="run")
    fine_tune(init_from="run@last", out="again", steps=0, extend_vocabulary=True)
    old, new = nanochat.load("run", checkpoint="last"), nanochat.load("again")
    first = old.tokenizer.first_special
    assert new.tokenizer.first_special == first + 2
    for name in nonempty(("wte", "lm_head")):
        weights = checkpoint("again", 0).state.weights[name]
        np.testing.assert_array_equal(weights[:first], old.weights[name][:first])
        np.testing.assert_array_equal(weights[first + 2 :], old.weights[name][first:])


def test_a_model_of_conversations_learns_a_plain_text_again(base, folder):
    base()
    fine_tune(out="run")
    fine_tune(init_from="run", data="base.txt", out="plain", steps=1)
    plain = nanochat.load("plain")
    assert plain.config.documents != "chat"
    assert plain.tokenizer.to_dict() == nanochat.load("run").tokenizer.to_dict()


@pytest.mark.parametrize("options_given", [{"steps": 1}, {"time_budget": "9s"}])
def test_the_choice_of_a_preset_has_counts(folder, talks, monkeypatch, options_given):
    from nanochat.commands import time_budget

    def chosen(config, *arguments, **others):
        raise ConfigError(f"{config.documents} {config.ngram_order}")

    monkeypatch.setattr(time_budget, "fit_to_budget", chosen)
    config = TrainConfig(data=talks, mode="scalar", num_samples=0, out="run", **options_given)
    if "time_budget" in options_given:
        with pytest.raises(ConfigError, match="^chat -1$"):
            nanochat.train(config)
    else:
        nanochat.train(config)
        assert nanochat.load("run").config.ngram_order > 0


# --------------------------------------------------------------------------------------- show_mask


def test_the_mask_is_shown_in_brackets_and_nothing_is_trained(cli, options, flags, folder):
    Path("chat.txt").write_text("System: Be.\nUser: Hi\nyou\nAssistant: Yo [x]\nUser: a\n")
    result = cli("train", "chat.txt", "--show-mask", "--block-size", "8")
    assert result.code == 0, result.err
    assert result.out == (
        "--- conversation 1 ---\n<|system|> Be.<|end|>\n<|user|> Hi\nyou<|end|>\n"
        "<|assistant|> [Yo [x]<|end|>]\n<|user|> a<|end|>\n"
    )
    assert result.err.splitlines()[-1] == (
        "learned, in brackets: 7 of 24 tokens; 1 of 1 conversation is longer than the context"
        " window of 8 tokens; 0 of 2 rows without a learned token"
    )
    assert not Path("runs").exists()


def test_the_mask_is_shown_in_color_on_a_terminal(cli, options, flags, folder, monkeypatch):
    from nanochat.output.terminal import Terminal

    Path("chat.txt").write_text("User: a\x1b[2J\nAssistant: b\n")
    monkeypatch.setattr(Terminal, "is_for_people", True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli("train", "chat.txt", "--show-mask").out.splitlines()[1:] == [
        "<|user|> a\\x1b[2J<|end|>", "<|assistant|> \x1b[1;32mb<|end|>\x1b[0m",
    ]  # fmt: skip
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli("train", "chat.txt", "--show-mask").out.splitlines()[2] == (
        "<|assistant|> [b<|end|>]"
    )


def test_the_mask_of_a_base_is_in_its_tokens(cli, base, folder):
    base(tokenizer="byte")
    result = cli("train", "chat.jsonl", "--show-mask", "--init-from", "base", "--json")
    shown = json.loads(result.out)
    assert shown["rows_without_targets"] == 0 < shown["targets"] < shown["tokens"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["names.txt"], "show_mask needs conversations, got a text of which every token is learned;"
         " add --documents chat if it has some, or leave show_mask out"),
        (["--resume"], "show_mask shows the text of a new run; leave resume out, got true"),
    ],
)  # fmt: skip
def test_a_mask_needs_conversations(refused, folder, words, message):
    assert refused("train", "--quiet", *words, "--show-mask") == message


def test_the_mask_belongs_to_the_command_line(options, folder):
    with pytest.raises(ConfigError) as caught:
        nanochat.train(TrainConfig(**options(show_mask=True)))
    assert str(caught.value) == (
        "show_mask belongs to the command line; use `nanochat train --show-mask`, or leave it out"
    )
