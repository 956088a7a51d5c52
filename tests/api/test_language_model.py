"""A loaded model: its texts, next tokens and losses against the commands and against NumPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.numpy_gpt import NumpyGPT, softmax

import nanochat
from nanochat.config.options import EvalConfig, SampleConfig, TrainConfig
from nanochat.errors import ConfigError, CorpusError, PromptTooLong, TokenizerError
from nanochat.model.parameters import parameter_specs

# Two to four bytes per character, for tokens that are parts of characters.
FOREIGN = "žluťoučký kůň 猫がいる 😀 naïve café\n" * 8


def train(folder: Path, name: str, text: str, **options: Any) -> nanochat.LanguageModel:
    path = folder / f"{name}.txt"
    path.write_text(text, encoding="utf-8")
    defaults: dict[str, Any] = {
        "mode": "scalar", "data": str(path), "documents": "file", "block_size": 8, "n_layer": 1,
        "n_head": 1, "n_embd": 4, "batch_size": 2, "steps": 3, "num_samples": 0, "dtype": "float64",
        "out": str(folder / name), "eval_every": 0, "init_std": 0.5, "baseline": False,
        "ngram_order": 0,
    }  # fmt: skip
    if options.get("n_layer") == 0:
        del defaults["n_head"]
    nanochat.train(TrainConfig(**{**defaults, **options}))
    return nanochat.load(folder / name, threads=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of every tokenizer, of lines, paragraphs and one document, on both engines."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "byte": train(folder, "byte", FOREIGN, tokenizer="byte"),
        "bpe": train(folder, "bpe", FOREIGN, tokenizer="bpe", vocab_size=264),
        "char": train(folder, "char", FOREIGN),
        "tensor": train(folder, "tensor", FOREIGN, mode="tensor", tokenizer="byte", prev_token_tables=1),
        "learned": train(folder, "learned", FOREIGN, positions="learned", n_layer=2),
        "bigram": train(folder, "bigram", FOREIGN, model_kind="bigram", n_layer=0),
        "lines": train(folder, "lines", FOREIGN, documents="line"),
        "paragraphs": train(folder, "paragraphs", "ab c\nd\n\nd c\n" * 9, documents="paragraph"),
        "separator": train(folder, "separator", "ab\n%\nc d\n%\n" * 9, documents="auto", separator="%"),
        "average": train(folder, "average", FOREIGN, ema=0.9, mode="tensor"),
    }  # fmt: skip


NAMES = ("byte", "bpe", "char", "tensor", "learned", "bigram", "lines", "paragraphs", "separator",
         "average")  # fmt: skip


def oracle(model: nanochat.LanguageModel) -> NumpyGPT:
    return NumpyGPT(model.config, model.weights)


# ---------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("name", NAMES)
def test_generate_gives_the_texts_of_nanochat_sample(models, name):
    model, prompt = models[name], "c"
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.3, "top_k": 9, "seed": 5}
    texts = model.generate(prompt, num_samples=3, **options)
    config = SampleConfig(
        run=str(model.checkpoint), prompt=prompt, num_samples=3, threads=1, **options
    )
    assert texts == nanochat.sample(config)
    assert model.generate(prompt, **options) == texts[0]


def test_the_defaults_of_generate_are_those_of_nanochat_sample(models):
    texts = nanochat.sample(SampleConfig(run=str(models["byte"].checkpoint), threads=1))
    assert [models["byte"].generate()] == texts == models["byte"].generate(num_samples=1)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES), seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.0, 0.8, 2.0, 50.0]), new=st.integers(1, 24),
    stop=st.lists(st.text("aeku猫�\n ", min_size=1, max_size=2), max_size=2),
)  # fmt: skip
def test_the_pieces_of_a_stream_are_the_generated_text(models, name, seed, temperature, new, stop):
    options: dict[str, Any] = {
        "seed": seed, "temperature": temperature, "max_new_tokens": new, "stop": stop,
    }  # fmt: skip
    pieces = list(models[name].stream("", **options))
    assert "".join(pieces) == models[name].generate("", **options)
    assert all(pieces)


@pytest.mark.parametrize("name", ["byte", "tensor", "learned"])
def test_streams_do_not_disturb_each_other(models, name):
    model = models[name]
    first, second = model.stream(seed=1), model.stream(seed=2)
    texts = ["", ""]
    done = [False, False]
    while not all(done):
        for i, pieces in enumerate((first, second)):
            piece = next(pieces, None)
            done[i] = piece is None
            texts[i] += piece or ""
        model.loss("naïve")
        model.next_tokens("a", 2)
    assert texts == [model.generate(seed=1), model.generate(seed=2)]


def test_a_stream_checks_its_arguments_before_the_first_piece(models):
    with pytest.raises(ConfigError, match="^temperature must be finite and between 0 and 10000"):
        models["byte"].stream("a", temperature=-1)


def test_temperature_0_takes_the_most_likely_tokens(models):
    model = models["char"]
    text = "k"
    for _ in range(4):
        ((piece, _),) = model.next_tokens(text, 1)
        text += piece
    assert model.generate("k", max_new_tokens=4, temperature=0) == text


# ---------------------------------------------------------------------------------- next tokens


def ids_of(model, prompt):
    """The prompt as the model reads it: after BOS where documents begin with it."""
    ids = model.tokenizer.encode(prompt).tolist()
    return [0, *ids] if model._start == [0] else ids


@pytest.mark.parametrize("name", NAMES)
def test_next_tokens_are_the_softmax_of_the_logits_in_float64(models, name):
    model, prompt = models[name], "d c" if name in ("paragraphs", "separator") else "kůň"
    reader = oracle(model)
    for position, token in enumerate(ids_of(model, prompt)):
        logits = reader.logits(token, position)
    expected = softmax(logits)
    found = model.next_tokens(prompt, k=model.tokenizer.vocab_size)
    assert len(found) == model.tokenizer.vocab_size
    assert math.fsum(p for _, p in found) == pytest.approx(1, rel=1e-14)
    probabilities = [p for _, p in found]
    assert probabilities == sorted(probabilities, reverse=True)
    np.testing.assert_allclose(probabilities, np.sort(expected)[::-1], rtol=1e-9)
    order = np.argsort(-expected, kind="stable")
    assert [piece for piece, _ in found] == [model.tokenizer.token_text(int(i)) for i in order]
    assert model.next_tokens(prompt, 3) == found[:3]
    assert model.next_tokens(prompt) == found[:10]


def test_k_above_the_vocabulary_gives_every_token_once(models):
    model = models["char"]
    pieces = [piece for piece, _ in model.next_tokens("k", 10**6)]
    assert sorted(pieces) == sorted(["", *set(FOREIGN)])


def test_bytes_that_are_parts_of_characters_are_shown_as_hexadecimal(models):
    tokenizer = models["byte"].tokenizer
    shown = [tokenizer.token_text(i) for i in tokenizer.encode("a猫").tolist()]
    assert shown == ["a", "\\xe7", "\\x8c", "\\xab"]
    assert tokenizer.token_text(0) == ""
    merged = models["bpe"].tokenizer
    for i in range(merged.vocab_size):
        assert "�" not in merged.token_text(i)
    assert "".join(merged.token_text(i) for i in merged.encode("naive").tolist()) == "naive"


# ----------------------------------------------------------------------------------------- loss


def expected_losses(model, documents):
    """Nats of every token of the documents, from NumPy, in windows of block_size tokens."""
    reader, nats = oracle(model), []
    for document in documents:
        tokens = [0, *model.tokenizer.encode(document).tolist(), 0]
        for pair in range(len(tokens) - 1):
            position = pair % model.config.block_size
            if position == 0:
                reader.reset()
            logits = reader.logits(tokens[pair], position)
            nats.append(-math.log(softmax(logits)[tokens[pair + 1]]))
    return nats


LOSSES = {
    "byte": ("naïve 猫 kůň\nx", ["naïve 猫 kůň\nx"]),
    "bpe": ("café café naïve", ["café café naïve"]),
    "char": ("kůň kůň a café naïve", ["kůň kůň a café naïve"]),
    "tensor": ("猫がいる, kůň?", ["猫がいる, kůň?"]),
    "learned": ("žluťoučký kůň naïve", ["žluťoučký kůň naïve"]),
    "bigram": ("kůň", ["kůň"]),
    "lines": ("kůň\n\ncafé naïve café naïve\n", ["kůň", "café naïve café naïve"]),
    "paragraphs": ("a b\nc\n\n\nd\n", ["a b\nc", "d"]),
    "separator": ("ab\n%\nd\n", ["ab", "d"]),
    "average": ("kůň kůň", ["kůň kůň"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_each_token_is_that_of_numpy(models, name):
    text, documents = LOSSES[name]
    loss = models[name].loss(text)
    tolerance = 1e-9
    np.testing.assert_allclose(loss.nats, expected_losses(models[name], documents), rtol=tolerance)
    tokenizer = models[name].tokenizer
    ids = [[*tokenizer.encode(document).tolist(), 0] for document in documents]
    assert loss.ids.tolist() == [i for document in ids for i in document]
    assert list(loss.pieces) == [tokenizer.token_text(i) for i in loss.ids.tolist()]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_text_is_that_of_nanochat_eval(models, name, folder):
    text = LOSSES[name][0]
    Path("text.txt").write_text(text, encoding="utf-8")
    loss = models[name].loss(text)
    scored = nanochat.evaluate(
        EvalConfig(run=str(models[name].checkpoint), data=("text.txt",), threads=1)
    )
    assert (loss.mean, loss.bpb) == (scored.loss, scored.bpb)
    assert (len(loss), loss.bytes) == (scored.targets, scored.bytes)


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(st.text("kůňcaféïv ", min_size=1, max_size=30), min_size=1, max_size=12))
def test_the_losses_are_in_the_order_of_the_text(models, lines):
    """Packing moves pieces of documents into other rows."""
    documents = [line for line in lines if line.strip()]
    assume(documents)
    loss = models["lines"].loss("\n".join(lines))
    alone = [models["lines"].loss(document).nats for document in documents]
    np.testing.assert_allclose(loss.nats, np.concatenate(alone), rtol=1e-12)


def test_a_loss_is_an_array_for_numpy(models):
    loss = models["char"].loss("kůň")
    np.testing.assert_array_equal(np.asarray(loss), loss.nats)
    assert np.array(loss, dtype=np.float32).dtype == np.float32
    assert np.array(loss) is not loss.nats
    assert list(loss) == loss.nats.tolist()
    assert loss[-1] == loss.nats[3]
    assert loss.mean == pytest.approx(loss.nats.mean(), rel=1e-15)
    assert loss.bpb == pytest.approx(loss.nats[:3].sum() / math.log(2) / 5, rel=1e-15)
    assert repr(loss) == (
        f"TextLoss(4 tokens, {loss.mean:.4f} nats per token, {loss.bpb:.4f} bits per byte)"
    )


# -------------------------------------------------------------------------- weights, description


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_the_canonical_names_and_shapes(models, name):
    model = models[name]
    specs = parameter_specs(model.config, model.tokenizer.vocab_size)
    assert {n: a.shape for n, a in model.weights.items()} == {s.name: s.shape for s in specs}
    assert model.params == sum(math.prod(spec.shape) for spec in specs)


def test_changed_weights_do_not_change_the_model(models):
    model = models["char"]
    before = model.next_tokens("k")
    for array in model.weights.values():
        array[:] = 0
    assert model.next_tokens("k") == before
    assert all(array.any() for array in model.weights.values())


def test_the_description_names_checkpoint_model_tokenizer_step_and_validation(models):
    model = models["learned"]
    assert model.config.dropout == 0 and model.step == 3
    assert repr(model) == (
        "LanguageModel(\n"
        f"  checkpoint: {model.checkpoint}\n"
        f"  model:      mini-gpt, {model.params} parameters: 2 layers, 1 head, hidden size 4, context"
        " window 8\n"
        f"  tokenizer:  char, {model.tokenizer.vocab_size} tokens\n"
        f"  step:       {model.step} of 3, the best\n"
        f"  validation: {model.validation.loss:.4f} nats per token, {model.validation.bpb:.4f} bits"
        " per byte\n"
        "  engine:     scalar, cpu, float64\n"
        ")"
    )


def test_a_bigram_is_described_without_layers(models):
    assert "bigram, " in repr(models["bigram"]) and "layer" not in repr(models["bigram"])


# --------------------------------------------------------------------------------------- errors

MISTAKES = [
    (lambda m: m.generate("q"), TokenizerError, "prompt: unknown token 'q' at position 0; use characters of"
     " the training corpus, or train with tokenizer byte"),
    (lambda m: m.stream("q"), TokenizerError, "prompt: unknown token 'q' at position 0; use"),
    (lambda m: m.next_tokens("q"), TokenizerError, "prompt: unknown token 'q' at position 0; use"),
    (lambda m: m.loss("kq"), TokenizerError, "unknown token 'q' at position 1; use"),
    (lambda m: m.generate("k" * 9), PromptTooLong, "prompt has 9 tokens, block_size is 8; shorten"),
    (lambda m: m.next_tokens("k" * 9), PromptTooLong, "prompt has 9 tokens, block_size is 8"),
    (lambda m: m.generate(temperature=-0.5), ConfigError, "temperature must be finite and between 0"),
    (lambda m: m.generate(temperature=float("nan")), ConfigError, "temperature must be finite"),
    (lambda m: m.generate(top_p=0), ConfigError, "top_p must be finite and > 0, got 0"),
    (lambda m: m.generate(top_k=-1), ConfigError, "top_k must be a whole number between 0 and"),
    (lambda m: m.generate(max_new_tokens=0), ConfigError, "max_new_tokens must be a whole number"),
    (lambda m: m.generate(num_samples=0), ConfigError, "num_samples must be a whole number between 1"),
    (lambda m: m.generate(seed=-1), ConfigError, "seed must be a whole number between 0 and"),
    (lambda m: m.generate(stop=""), ConfigError, "stop must be text or a list of texts, none of them"),
    (lambda m: m.generate(stop=["a", ""]), ConfigError, "stop must be text or a list of texts"),
    (lambda m: m.generate(5), ConfigError, "prompt must be text, got 5"),
    (lambda m: m.next_tokens("k", 0), ConfigError, "k must be a whole number of at least 1, got 0"),
    (lambda m: m.next_tokens("k", -3), ConfigError, "k must be a whole number of at least 1, got -3"),
    (lambda m: m.next_tokens("k", 1.5), ConfigError, "k must be a whole number of at least 1, got 1.5"),
    (lambda m: m.next_tokens("k", True), ConfigError, "k must be a whole number of at least 1"),
    (lambda m: m.next_tokens(b"k"), ConfigError, "prompt must be text, got"),
    (lambda m: m.loss(""), CorpusError, "text must have at least one character, got ''"),
    (lambda m: m.loss(None), ConfigError, "text must be a str, got NoneType"),
    (lambda m: m.loss("k\ud800"), TokenizerError, "text must be Unicode text, got the lone surrogate"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_a_mistake_is_one_clear_line(models, call, error, message):
    with pytest.raises(nanochat.NanochatError) as caught:
        call(models["char"])
    assert type(caught.value) is error
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_text_without_a_document_is_refused(models):
    with pytest.raises(
        CorpusError, match="^the text contains no text but white space; give a text"
    ):
        models["lines"].loss(" \n\n ")
