"""Chat completions of a run that was trained on conversations: the replies of `LanguageModel.chat`."""

from __future__ import annotations

import json
import subprocess

import openai
import pytest
from serving.server import WAIT_S

import nanochat
from nanochat.commands.serve import client_line

QUESTIONS = ("who are you", "how old", "what now")
ANSWERS = ("a bot", "ten", "we talk")


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A run on conversations of two turns."""
    folder = tmp_path_factory.mktemp("talks")
    (folder / "chat.jsonl").write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": question},
                                     {"role": "assistant", "content": answer}]}) + "\n"
            for question, answer in list(zip(QUESTIONS, ANSWERS, strict=True)) * 30
        )
    )  # fmt: skip
    config = nanochat.TrainConfig(
        mode="tensor", device="cpu", data=str(folder / "chat.jsonl"), model_kind="mini-gpt",
        positions="rope", n_layer=2, n_head=2, n_embd=32, block_size=48, batch_size=8, steps=150,
        lr=0.01, num_samples=0, baseline=False, out=str(folder / "run"), threads=1,
    )  # fmt: skip
    return nanochat.train(config).run


@pytest.fixture(scope="module")
def served(start, talks):
    return start(talks)


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("question", [*QUESTIONS, "who now"])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_reply_is_that_of_the_model(talks, client, question, temperature):
    messages = [{"role": "user", "content": question}]
    expected = nanochat.load(talks, threads=1).chat(
        messages, temperature=temperature, seed=5, max_new_tokens=20
    )
    options = {"temperature": temperature, "seed": 5, "max_tokens": 20, "messages": messages}
    answer = client.chat.completions.create(model="run", **options)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected)
    streamed = client.chat.completions.create(model="run", stream=True, **options)
    pieces = [part.choices[0].delta.content or "" for part in streamed if part.choices]
    assert "".join(pieces) == expected
    if question in QUESTIONS and temperature == 0:
        assert expected == ANSWERS[QUESTIONS.index(question)]
        # The token that ends a message ends the reply and does not belong to it.
        assert (choice.finish_reason, answer.usage.completion_tokens) == ("stop", len(expected))


def test_a_conversation_that_does_not_fit_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="run", messages=[{"role": "user", "content": "a" * 99}]
        )
    assert caught.value.code == "context_length_exceeded"


def test_the_page_offers_chat(served):
    assert '"has_chat":true' in served.client.get("/").text


def test_the_line_that_serve_prints_for_conversations_asks_for_a_reply(served):
    line = client_line(served.url, has_key=False, is_chat=True)
    done = subprocess.run(
        ["bash", "-c", line.replace("curl ", "curl -s --noproxy '*' ").replace('"hi"', '"how old"')],
        capture_output=True, text=True, timeout=WAIT_S,
    )  # fmt: skip
    assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant", done.stderr
