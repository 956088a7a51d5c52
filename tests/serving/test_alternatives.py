"""What the API tells of each token under the key nanochat, and the scores of a text."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from nonempty import nonempty
from serving.server import WAIT_S, error, request, until

import nanochat
from nanochat.sampling.explain import Explainer
from nanochat.sampling.generate import generate
from nanochat.sampling.sampling import SamplingSettings

SETTINGS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 12, "seed": 5}


@pytest.fixture(scope="module")
def model(names):
    return nanochat.load(names)


def explained(model, prompt):
    """What `sample --explain` says of the tokens of a text, up to its end."""
    explainer = Explainer(model._mixture, 1)
    generate(
        explainer, model.tokenizer, model._context(prompt), SamplingSettings(**SETTINGS, stop=()),
        1, on_tokens=explainer.keep,
    )  # fmt: skip
    return [each for each in explainer.rows[0] if each.token]


def asked(**fields):
    return {"prompt": "an", "seed": 5, "temperature": 1, "max_tokens": 12, **fields}


def alternatives(server, **fields):
    (choice,) = server.post(**asked(nanochat={"alternatives": 5}, **fields)).json()["choices"]
    whole = choice["text"].rstrip("\ufffd")  # the last character may be cut
    assert "".join(each["text"] for each in choice["nanochat"]["tokens"]) == whole
    return choice["nanochat"]["tokens"]


def test_alternatives_are_those_of_explain_with_network_and_counts_apart(server, model):
    expected = explained(model, "an")
    found = alternatives(server)
    assert [each["id"] for each in found] == [each.token for each in nonempty(expected)]
    for token, said in zip(found, expected, strict=True):
        numbers = [token[name] for name in ("probability", "network", "counts", "counts_share")]
        same = [said.probability, said.network, said.counts, said.counts_share]
        np.testing.assert_allclose(numbers, same, rtol=1e-5)
        assert [each["id"] for each in token["likeliest"]] == [each for each, _ in said.likeliest]
        shares = [(1 - said.counts_share) * each["network"] + said.counts_share * each["counts"]
                  for each in token["likeliest"]]  # fmt: skip
        np.testing.assert_allclose(shares, [p for _, p in said.likeliest], rtol=1e-5)


def test_a_model_without_counts_has_nothing_apart(euro_server):
    token, *_ = alternatives(euro_server, seed=0, prompt="é")
    apart = {(each["network"], each["counts"]) for each in (token, *token["likeliest"])}
    assert (apart, token["counts_share"], len(token["likeliest"])) == ({(None, None)}, None, 5)


def test_a_stream_has_the_same_alternatives_and_log_probabilities_keep_their_number(server):
    streamed = server.events(**asked(nanochat={"alternatives": 5}, logprobs=2))
    choices = [each["choices"][0] for each in streamed]
    assert [token for each in choices for token in each.get("nanochat", {}).get("tokens", [])] == (
        alternatives(server)
    )
    tops = [top for each in choices if each["logprobs"] for top in each["logprobs"]["top_logprobs"]]
    assert {len(top) for top in nonempty(tops)} == {2}


def test_a_character_of_several_tokens_belongs_to_the_last_of_them(euro_server):
    tokens = alternatives(euro_server, prompt="€", temperature=0, seed=0)
    whole = next(n for n, each in enumerate(tokens) if each["text"] and not each["text"].isascii())
    assert tokens[whole - 1]["text"] == ""
    assert tokens[whole - 1]["token"].startswith("\\x")


@pytest.mark.parametrize(
    ("value", "message", "param"),
    [
        ({"alternatives": 21}, "nanochat.alternatives must be a whole number from 0 to 20, got 21",
         "nanochat.alternatives"),
        ({"alternatives": True}, "nanochat.alternatives must be a whole number from 0 to 20, got"
         " true", "nanochat.alternatives"),
        ([], "nanochat must be an object, got a list", "nanochat"),
    ],
)  # fmt: skip
def test_a_wrong_number_of_alternatives_is_refused(value, message, param, server):
    reply = server.post(nanochat=value)
    assert (reply.status_code, reply.json()) == (400, error(message, param=param))


# ---------------------------------------------------------------------------------------- scores


def test_the_scores_of_a_text_are_those_of_loss(server, model):
    text = "anna\nella\nfayanne\n"
    reply, loss = server.post("/v1/score", input=text).json(), model.loss(text)
    nats = [each["nats"] for each in reply["tokens"]]
    np.testing.assert_allclose(nats, loss.nats, rtol=1e-5, atol=2e-6)
    assert [each["token"] for each in reply["tokens"]] == list(loss.pieces)
    assert [each["id"] for each in reply["tokens"]] == loss.ids.tolist()
    np.testing.assert_allclose([reply["mean"], reply["bpb"]], [loss.mean, loss.bpb], rtol=1e-6)
    assert (reply["bytes"], reply["object"], reply["model"]) == (loss.bytes, "score", "run")
    assert all(each.keys() == {"id", "token", "text", "nats"} for each in reply["tokens"])


def test_the_alternatives_of_a_score_are_those_of_the_same_text_when_it_was_drawn(server):
    drawn = alternatives(server)
    text = "an" + "".join(each["text"] for each in drawn)
    tokens = server.post("/v1/score", input=text, nanochat={"alternatives": 5}).json()["tokens"]
    names = ("probability", "network", "counts")
    for scored, before in zip(tokens[2:], nonempty(drawn), strict=False):
        assert (scored["id"], scored["text"]) == (before["id"], before["text"])
        np.testing.assert_allclose(scored["counts_share"], before["counts_share"], rtol=1e-5)
        pairs = zip([scored, *scored["likeliest"]], [before, *before["likeliest"]], strict=True)
        for one, other in pairs:
            assert one["id"] == other["id"]
            np.testing.assert_allclose(
                [one[name] for name in names], [other[name] for name in names], rtol=1e-5
            )


def test_the_scores_of_bytes_name_whole_characters(euro_server):
    tokens = euro_server.post("/v1/score", input="€ö").json()["tokens"]
    assert [each["text"] for each in tokens] == ["", "", "€", "", "ö", ""]


def test_a_score_between_two_tokens_of_a_text_changes_neither(server):
    fields = {"prompt": "a", "seed": 3, "n": 8, "max_tokens": 200, "temperature": 1.3}
    alone = server.post(**fields).json()["choices"]
    expected = server.post("/v1/score", input="dora").json()["tokens"]
    done, found = threading.Event(), []

    def score():
        while not done.is_set():
            found.append(server.post("/v1/score", input="dora").json()["tokens"])

    thread = threading.Thread(target=score)
    thread.start()
    together = [server.post(**fields).json()["choices"] for _ in range(5)]
    done.set()
    thread.join(WAIT_S)
    assert together == [alone] * 5
    assert all(tokens == expected for tokens in nonempty(found))


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "input must be Unicode text, got nothing", "input"),
        ({"input": 3}, "input must be Unicode text, got 3", "input"),
        ({"input": "\ud800"}, "input must be Unicode text, got \\ud800", "input"),
        ({"input": "a" * 4096}, "input must have at most 4,096 tokens, got 4,097", "input"),
        ({"input": "a", "model": 1}, "model must be text, got 1", "model"),
        ({"input": "a", "nanochat": {"alternatives": 21}},
         "nanochat.alternatives must be a whole number from 0 to 20, got 21",
         "nanochat.alternatives"),
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_scored_is_refused(body, message, param, server):
    reply = server.client.post("/v1/score", content=json.dumps(body).encode())
    assert (reply.status_code, reply.json()) == (400, error(message, param=param))


@pytest.mark.parametrize("text", ["", "\n", "a€"])
def test_a_text_that_loss_refuses_is_refused_with_its_words(text, server, model):
    with pytest.raises(nanochat.NanochatError) as refused:
        model.loss(text)
    reply = server.post("/v1/score", input=text)
    assert (reply.status_code, reply.json()) == (400, error(str(refused.value)))


def test_a_score_that_takes_too_long_ends(start, names):
    server = start(names, "--max-time=0.000001")
    reply = server.post("/v1/score", input="anna\n" * 800)
    message = "the reply took longer than 1e-06 seconds; ask for fewer tokens"
    assert (reply.status_code, reply.json()) == (
        503, error(message, type="server_error", code="timeout")
    )  # fmt: skip


def test_a_client_that_goes_away_ends_its_score(server):
    gone = server.stat("clients_gone_total")
    body = json.dumps({"input": "anna\n" * 800, "nanochat": {"alternatives": 20}}).encode()
    with server.connect() as connection:
        connection.sendall(request(body, "/v1/score"))
    assert until(lambda: server.stat("clients_gone_total") == gone + 1)
