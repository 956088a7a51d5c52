"""Texts that join and leave a batch are those that are drawn alone."""

from __future__ import annotations

import random
import threading
import time
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from nonempty import nonempty
from serving.server import TEXT, WAIT_S

import nanochat
from nanochat.errors import LogitsError, NanochatError
from nanochat.sampling.sampling import SamplingSettings
from nanochat.serving.batch import Batch, Texts
from nanochat.serving.rows import SeparateRows, SharedRows, TextStart, rows_of
from nanochat.serving.scoring import score

NETWORK = {
    "mode": "tensor", "device": "cpu", "model_kind": "mini-gpt", "n_layer": 2, "n_head": 2,
    "n_embd": 16, "block_size": 16, "steps": 30,
}  # fmt: skip
SHARED, SEPARATE = SharedRows, SeparateRows
KINDS: dict[str, tuple[dict[str, Any], type]] = {
    "rope": ({**NETWORK, "positions": "rope", "ngram_order": 0}, SHARED),
    "learned": ({**NETWORK, "positions": "learned", "ngram_order": 0}, SHARED),
    "tables": (
        {**NETWORK, "positions": "rope", "ngram_order": 0, "prev_token_tables": 2,
         "hash_embed_rows": 50, "tokenizer": "byte"},
        SHARED,
    ),
    "float64": ({**NETWORK, "positions": "rope", "ngram_order": 0, "dtype": "float64"}, SHARED),
    "counts": ({**NETWORK, "positions": "rope", "ngram_order": 4}, SHARED),
    "counts of one token": ({**NETWORK, "positions": "rope", "ngram_order": 1}, SHARED),
    "style": (
        {**NETWORK, "positions": "rope", "ngram_order": 3, "style": "futuristic"}, SHARED,
    ),
    "one document": (
        {**NETWORK, "positions": "rope", "ngram_order": 4, "documents": "file"}, SHARED,
    ),
    "bigram": (
        {"mode": "tensor", "device": "cpu", "model_kind": "bigram", "n_embd": 8, "steps": 20},
        SEPARATE,
    ),
    "scalar": (
        {"mode": "scalar", "model_kind": "mini-gpt", "n_layer": 1, "n_head": 2, "n_embd": 8,
         "block_size": 8, "steps": 10, "ngram_order": 0},
        SEPARATE,
    ),
    "counts alone": ({"model_kind": "ngram", "ngram_order": 4}, SEPARATE),
}  # fmt: skip
ROWS = 5


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Return the model of a kind, which is trained once."""

    @cache
    def trained(kind: str) -> nanochat.LanguageModel:
        folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
        (folder / "text.txt").write_text(TEXT, encoding="utf-8")
        config = nanochat.TrainConfig(
            **{"documents": "line", **KINDS[kind][0]}, data=str(folder / "text.txt"),
            num_samples=0, out=str(folder / "run"),
        )  # fmt: skip
        return nanochat.load(nanochat.train(config).run)

    return trained


class Asked:
    """A request of the batch, and its texts as they come."""

    def __init__(self, model: nanochat.LanguageModel, prompt: str, n: int, **how: Any) -> None:
        settings = {"top_k": 0, "top_p": 1.0, "stop": (), **how}
        context = tuple(model._context(prompt))
        self.texts = Texts(
            [TextStart(context=context, settings=SamplingSettings(**settings), sample=number)
             for number in range(n)],
            self.take,
        )  # fmt: skip
        self.found = [model.tokenizer.decode(context)] * n
        self.tokens = [0] * n
        self.reasons: list[str | None] = [None] * n
        self.error: NanochatError | None = None
        self.is_done = threading.Event()
        self.expected = lambda: model.generate(prompt, num_samples=n, **how)

    def take(self, parts: Any, error: NanochatError | None) -> None:
        self.error = error
        for part in parts:
            assert self.reasons[part.text] is None  # nothing follows the end
            self.found[part.text] += part.piece
            self.tokens[part.text] += part.tokens
            self.reasons[part.text] = part.finish_reason
        if error is not None or all(self.reasons):
            self.is_done.set()


def random_request(chance: random.Random, model: nanochat.LanguageModel) -> Asked:
    how: dict[str, Any] = {
        "seed": chance.randrange(4), "temperature": chance.choice([0.0, 0.8, 1.5]),
        "max_new_tokens": chance.choice([1, 7, 40, 140]),
        "stop": chance.choice([(), ("e",), ("a", "nn")]),
    }  # fmt: skip
    if how["temperature"]:
        how |= {"top_k": chance.choice([0, 3]), "top_p": chance.choice([1.0, 0.9])}
    prompt, n = chance.choice(["", "a", "an", "bob", "ella"]), chance.choice([1, 1, 2])
    return Asked(model, prompt, n, **how)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_a_batch_is_that_of_generate(kind, model_of):
    """Texts of all lengths and options, more than there are rows, that come at any time."""
    rows_type, model = KINDS[kind][1], model_of(kind)
    rows = rows_of(model._trained, ROWS, model._bias)
    assert type(rows) is rows_type
    batch = Batch(rows, ROWS, model.tokenizer, 100)
    chance = random.Random(kind)
    asked = []
    for number in range(24):
        asked.append(random_request(chance, model))
        assert batch.add(asked[-1].texts)
        if number % 4 == 0:
            time.sleep(0.005)
    for each in asked:
        assert each.is_done.wait(WAIT_S)
    assert (batch.active, batch.waiting) == (0, 0)
    batch.close()
    assert [each.found for each in asked] == [each.expected() for each in asked]
    assert {reason for each in asked for reason in each.reasons} == {"stop", "length"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][1] is SHARED])
def test_several_steps_at_once_are_those_one_by_one(kind, model_of):
    """Of rows with gaps between them, beyond the context window and the random numbers of a call;
    the step that ends a text is the last one of a call."""
    model, chosen = model_of(kind), [0, 1, 3, 4]
    first_end, taken = model.tokenizer.vocab_size, 620 if kind == "one document" else 40
    one, many = (rows_of(model._trained, ROWS, model._bias) for _ in range(2))
    for rows in (one, many):
        for row in nonempty(chosen):
            how = {"temperature": 0.9, "top_k": 0, "top_p": 1.0, "stop": ()}
            settings = SamplingSettings(seed=row, max_new_tokens=2000, **how)
            rows.begin(row, TextStart(context=(*model._context("a"),), settings=settings, sample=0))
            while not rows.read(row):
                pass
    chance, steps = random.Random(kind), []
    while len(steps) < taken:
        found = many.next_steps(chosen, chance.choice([1, 2, 5, 90]), first_end)
        assert len(found) == 1 or all(0 not in step for step in found[:-1])
        steps += found
    assert steps == [one.next_tokens(chosen) for _ in steps]
    np.testing.assert_array_equal(many.log_probabilities(3), one.log_probabilities(3))
    if kind not in ("learned", "style"):  # which need each token here
        assert len(many.next_steps(chosen, 2, 0)) == 1  # any token ends
        assert len(many.next_steps(chosen, 3, first_end + 1)) in range(1, 4)


@pytest.mark.parametrize("kind", ["one document", "rope", "learned", "scalar"])
def test_long_texts_of_a_batch_without_stops_are_those_of_generate(kind, model_of):
    model = model_of(kind)
    batch = Batch(rows_of(model._trained, ROWS), ROWS, model.tokenizer, 100)
    asked = [
        Asked(model, "a", n, seed=n, temperature=0.9, max_new_tokens=most)
        for n, most in ((1, 700), (2, 130), (1, 1), (3, 50))
    ]
    for each in asked:
        assert batch.add(each.texts)
    for each in asked:
        assert each.is_done.wait(WAIT_S)
    drawn = batch.tokens_drawn
    batch.close()
    assert [each.found for each in asked] == [each.expected() for each in asked]
    ended = sum(reason == "stop" for each in asked for reason in each.reasons)
    assert drawn == sum(sum(each.tokens) for each in asked) + ended


def test_the_log_probabilities_of_a_batch_are_those_of_the_model(model_of):
    model = model_of("counts")
    batch = Batch(rows_of(model._trained, 2), 2, model.tokenizer, 10)
    asked = Asked(model, "an", 1, seed=3, temperature=1.0, max_new_tokens=20)
    drawn = []
    asked.texts.likeliest = 3
    take = asked.texts.on_parts
    asked.texts.on_parts = lambda parts, error: (
        drawn.extend(token for part in parts for token in part.drawn), take(parts, error),
    )  # fmt: skip
    assert batch.add(asked.texts)
    assert asked.is_done.wait(WAIT_S)
    batch.close()
    context = "an"
    for token in nonempty(drawn):
        expected = dict(model.next_tokens(context, k=model.tokenizer.vocab_size))
        piece = model.tokenizer.token_text(token.token)
        np.testing.assert_allclose(np.exp(token.log_probability), expected[piece], rtol=1e-5)
        likeliest = [model.tokenizer.token_text(other) for other, _ in token.likeliest]
        assert likeliest == list(expected)[:3]
        context += piece


@pytest.mark.parametrize("kind", ["counts", "scalar"])
def test_a_request_that_is_dropped_frees_its_rows_and_changes_no_other(kind, model_of):
    model = model_of(kind)
    batch = Batch(rows_of(model._trained, 2), 2, model.tokenizer, 100)
    long = Asked(model, "a", 2, seed=1, temperature=1.0, max_new_tokens=1 << 20, stop=("Q",))
    other = Asked(model, "b", 1, seed=2, temperature=1.0, max_new_tokens=30)
    assert batch.add(long.texts)
    assert batch.add(other.texts)
    batch.drop(long.texts)
    assert other.is_done.wait(WAIT_S)
    assert other.found == other.expected()
    assert (batch.active, batch.waiting) == (0, 0)
    batch.close()


def test_more_texts_than_may_wait_are_refused(model_of):
    model = model_of("counts")
    batch = Batch(rows_of(model._trained, 2), 2, model.tokenizer, 3)
    how = {"seed": 1, "temperature": 0.0, "max_new_tokens": 3}
    assert not batch.add(Asked(model, "a", 6, **how).texts)
    fitting = Asked(model, "a", 5, **how)
    assert batch.add(fitting.texts)
    assert fitting.is_done.wait(WAIT_S)
    assert fitting.found == fitting.expected()
    batch.close()


def test_an_error_of_the_model_ends_its_texts_and_not_the_batch(model_of):
    model = model_of("counts")
    rows = rows_of(model._trained, 2)
    draw, failures = rows.next_tokens, [LogitsError("logits of row 0 hold nan"), KeyError("x")]

    def fail(chosen):
        if failures:
            raise failures.pop(0)
        return draw(chosen)

    rows.next_tokens = fail
    batch = Batch(rows, 2, model.tokenizer, 10)
    how = {"seed": 1, "temperature": 0.0, "max_new_tokens": 3}
    messages = []
    for _ in range(2):
        asked = Asked(model, "a", 1, **how)
        assert batch.add(asked.texts)
        assert asked.is_done.wait(WAIT_S)
        messages.append(str(asked.error))
    assert messages == ["logits of row 0 hold nan", "KeyError('x')"]
    good = Asked(model, "a", 1, **how)
    assert batch.add(good.texts)
    assert good.is_done.wait(WAIT_S)
    assert (good.error, good.found) == (None, good.expected())
    batch.close()


# ----------------------------------------------------------------------------------------- scores


def result_of(steps):
    """What work in steps returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_that_of_loss(kind, model_of):
    model = model_of(kind)
    text = "anna\nella\n" + "annabobcarldora" * 3 + "\nbob\n"
    loss, found = model.loss(text), result_of(score(model._trained, text, 100, None))
    assert [each["id"] for each in found["tokens"]] == loss.ids.tolist()
    assert [each["token"] for each in found["tokens"]] == list(loss.pieces)
    nats = [each["nats"] for each in found["tokens"]]
    np.testing.assert_allclose(nats, loss.nats, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose([found["mean"], found["bpb"]], [loss.mean, loss.bpb], rtol=1e-5)
    assert found["bytes"] == loss.bytes


@pytest.mark.parametrize("kind", ["rope", "tables", "counts", "style", "bigram", "counts alone"])
def test_the_alternatives_of_a_score_are_the_next_tokens_of_the_model(kind, model_of):
    model = model_of(kind)
    found = result_of(score(model._trained, "ella", 100, 3))["tokens"]
    for place, token in enumerate(nonempty(found)):
        expected = dict(model.next_tokens("ella"[:place], k=model.tokenizer.vocab_size))
        assert [each["token"] for each in token["likeliest"]] == list(expected)[:3]
        for each in (token, *token["likeliest"]):
            np.testing.assert_allclose(each["probability"], expected[each["token"]], rtol=2e-5)


def test_a_token_of_each_text_is_drawn_between_two_steps_of_a_score(model_of):
    model = model_of("one document")
    batch = Batch(rows_of(model._trained, 2), 2, model.tokenizer, 10)
    endless = Asked(model, "a", 2, seed=1, temperature=0.0, max_new_tokens=1 << 20)
    assert batch.add(endless.texts)
    drawn, text = [], "anna\n" * 300

    def watched():
        while batch.tokens_drawn < 10:
            yield
        steps = score(model._trained, text, 4096, 8)
        while True:
            drawn.append(batch.tokens_drawn)
            try:
                yield next(steps)
            except StopIteration as end:
                return end.value

    found = batch.work(watched()).result(WAIT_S)
    batch.drop(endless.texts)
    batch.close()
    assert [each["id"] for each in found["tokens"]] == model.loss(text).ids.tolist()
    assert len(drawn) > 1500 / 16
    assert {later - earlier for earlier, later in pairwise(drawn)} == {2}


def test_a_score_that_is_cancelled_ends_before_its_next_step(model_of):
    model = model_of("counts")
    batch = Batch(rows_of(model._trained, 1), 1, model.tokenizer, 10)
    begun, ended = threading.Event(), threading.Event()

    def unending():
        try:
            while True:
                begun.set()
                yield
        finally:
            ended.set()

    first = batch.work(unending())
    second = batch.work(score(model._trained, "anna", 10, None))
    assert begun.wait(WAIT_S)
    assert first.cancel()
    assert second.result(WAIT_S)["tokens"][0]["token"] == "a"
    assert ended.is_set()
    batch.close()
