"""What the paths of the server answer, over loopback."""

from __future__ import annotations

import concurrent.futures
import json

import pytest
from nonempty import nonempty
from serving.server import KEY, body_of, error, request, status_of

import nanochat

NOT_A_CHAT = error("this run was not trained on conversations; use completions")
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model(names):
    return nanochat.load(names)


# ------------------------------------------------------------------------------------- completions


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "an", "seed": 1},
        {"prompt": "an", "seed": 2, "temperature": 0},
        {"prompt": "", "seed": 3, "temperature": 1.5, "max_tokens": 100},
        {"seed": 4, "top_p": 0.7, "top_k": 5},
        {"prompt": "b", "seed": 5, "stop": "b"},
        {"prompt": "b", "seed": 5, "stop": ["o", "nn"]},
        {"prompt": "ella", "seed": 6, "max_tokens": 1},
    ],
    ids=str,
)
def test_a_completion_is_the_text_of_generate(fields, server, model):
    how = dict(fields)
    prompt = how.pop("prompt", "")
    if "max_tokens" in how:
        how["max_new_tokens"] = how.pop("max_tokens")
    expected = model.generate(prompt, **how).removeprefix(prompt)
    assert server.text(**fields) == expected
    events = server.events(**fields)
    assert "".join(each["choices"][0]["text"] for each in events) == expected


def test_a_reply_has_the_shape_of_openai(server, model):
    reply = server.post(prompt="an", seed=1, max_tokens=4, temperature=0).json()
    text = model.generate("an", temperature=0, max_new_tokens=4)[2:]
    assert reply.pop("id").startswith("cmpl-")
    assert reply.pop("created") > 1_700_000_000
    assert reply == {
        "object": "text_completion", "model": "run", "seed": 1,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": len(text), "total_tokens": 3 + len(text),
        },
    }  # fmt: skip


def test_n_and_prompts_give_a_choice_each(server, model):
    fields = {"prompt": ["a", "bo"], "n": 3, "seed": 7, "max_tokens": 9}
    expected = [
        text.removeprefix(prompt)
        for prompt in ("a", "bo")
        for text in model.generate(prompt, seed=7, num_samples=3, max_new_tokens=9)
    ]
    reply = server.post(**fields).json()
    assert [choice["text"] for choice in reply["choices"]] == expected
    assert [choice["index"] for choice in reply["choices"]] == list(range(6))
    assert reply["usage"]["prompt_tokens"] == 5  # BOS a BOS b o
    streamed, reasons = [""] * 6, [None] * 6
    for event in server.events(**fields):
        (choice,) = event["choices"]
        assert reasons[choice["index"]] is None
        streamed[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"]
    assert streamed == expected
    assert set(reasons) <= {"stop", "length"}


def test_the_end_of_a_text_says_why(server):
    reasons = [
        server.post(prompt="an", temperature=0, **fields).json()["choices"][0]["finish_reason"]
        for fields in ({"max_tokens": 1}, {"max_tokens": 100}, {"max_tokens": 100, "stop": "n"})
    ]
    assert reasons == ["length", "stop", "stop"]


def test_usage_comes_last_if_a_stream_asks_for_it(server):
    fields = {"prompt": "an", "seed": 1, "max_tokens": 5}
    whole = server.post(**fields).json()["usage"]
    *chunks, last = server.events(**fields, stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]) == ([], whole)
    assert [chunk["usage"] for chunk in nonempty(chunks)] == [None] * len(chunks)
    without = server.events(**fields)
    assert ["usage" in chunk for chunk in nonempty(without)] == [False] * len(without)


def test_echo_precedes_a_text_once(server, model):
    expected = model.generate("an", seed=1)
    assert server.text(prompt="an", seed=1, echo=True) == expected
    events = server.events(prompt="an", seed=1, echo=True)
    assert "".join(each["choices"][0]["text"] for each in events) == expected


def test_log_probabilities_name_each_token_and_the_likeliest(server, model):
    fields = {"prompt": "a", "seed": 1, "max_tokens": 6, "logprobs": 2}
    choice = server.post(**fields).json()["choices"][0]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"] == list(range(len(choice["text"])))
    likeliest = model.next_tokens("a", k=2)
    assert list(found["top_logprobs"][0]) == [piece for piece, _ in likeliest]
    streamed = [each["choices"][0]["logprobs"] for each in server.events(**fields)]
    for key in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [each for part in streamed if part for each in part[key]] == found[key]


def test_without_a_seed_texts_differ_and_the_reply_says_how_to_repeat_them(server):
    replies = [server.post(prompt="", temperature=2).json() for _ in range(8)]
    texts = {reply["choices"][0]["text"] for reply in replies}
    assert len(texts) > 1
    again = [server.text(prompt="", temperature=2, seed=reply["seed"]) for reply in replies]
    assert again == [reply["choices"][0]["text"] for reply in replies]


def test_a_seed_gives_the_same_text_whatever_runs_beside_it(server, model):
    def ask(number: int) -> str:
        fields = {"prompt": ["a", "an", "bob"][number % 3], "seed": number % 5, "max_tokens": 50}
        if number % 2:
            return server.text(**fields)
        return "".join(each["choices"][0]["text"] for each in server.events(**fields))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(90)))
    expected = [
        model.generate(prompt, seed=n % 5, max_new_tokens=50).removeprefix(prompt)
        for n in range(90)
        for prompt in [["a", "an", "bob"][n % 3]]
    ]
    assert found == expected


def test_no_part_of_a_stream_holds_half_a_character(euro_server, euros):
    """Every token is one byte, so most tokens are only a part of a character."""
    server, model = euro_server, nanochat.load(euros)
    for tokens in range(1, 14):
        fields = {"prompt": "€", "seed": tokens, "max_tokens": tokens, "temperature": 0.5}
        expected = model.generate("€", seed=tokens, max_new_tokens=tokens, temperature=0.5)[1:]
        pieces = [each["choices"][0]["text"] for each in server.events(**fields)]
        assert "".join(pieces) == expected
        assert "�" not in "".join(pieces)[:-1]  # only where the last token cuts a character
    reply = server.post("/v1/completions", prompt="€", seed=1, max_tokens=3, logprobs=0)
    tokens_ = reply.json()["choices"][0]["logprobs"]["tokens"]
    assert [len(token.encode("latin-1")) for token in tokens_] == [4] * len(tokens_)  # \xNN


# --------------------------------------------------------------------------- refused completions


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"prompt": 1}, "prompt must be text or a list of texts, got 1", "prompt"),
        ({"prompt": []}, "prompt must be text or a list of texts, got a list", "prompt"),
        ({"prompt": ["a", 2]}, "prompt[1] must be Unicode text, got 2", "prompt[1]"),
        ({"prompt": "\ud800"}, "prompt must be Unicode text, got \\ud800", "prompt"),
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1 to 4096, got 0", "max_tokens"),
        ({"max_tokens": 4097}, "max_tokens must be a whole number from 1 to 4096, got 4097",
         "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number from 1 to 4096, got 1.5",
         "max_tokens"),
        ({"temperature": -1}, "temperature must be finite and between 0 and 10000, got -1", "temperature"),
        ({"temperature": "hot"}, "temperature must be finite and between 0 and 10000, got hot", "temperature"),
        ({"top_p": 0}, "top_p must be finite and > 0, got 0", "top_p"),
        ({"top_k": -1}, "top_k must be", "top_k"),
        ({"seed": 2**32}, "seed must be", "seed"),
        ({"seed": 1.0}, "seed must be", "seed"),
        ({"n": 0}, "n must be a whole number from 1 to 64, got 0", "n"),
        ({"n": True}, "n must be a whole number from 1 to 64, got true", "n"),
        ({"n": 33, "prompt": ["a", "b"]}, "n times the number of prompts must be at most 64, got 66",
         "n"),
        ({"stop": ""}, "stop must be text or a list of up to 16 texts, none of them empty, got ''",
         "stop"),
        ({"stop": ["a", 3]},
         "stop[1] must be text or a list of up to 16 texts, none of them empty, got 3", "stop[1]"),
        ({"stream": 1}, "stream must be true or false, got 1", "stream"),
        ({"stream_options": {}}, "stream_options needs stream true", "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}},
         "stream_options.include_usage must be true or false, got yes",
         "stream_options.include_usage"),
        ({"logprobs": 6}, "logprobs must be a whole number from 0 to 5, got 6", "logprobs"),
        ({"logprobs": True}, "logprobs must be a whole number from 0 to 5, got true", "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo has no log probabilities; leave logprobs out", "echo"),
        ({"suffix": "x"}, "suffix is not offered by this server; leave it out", "suffix"),
        ({"presence_penalty": 1}, "presence_penalty is not offered by this server; leave it out",
         "presence_penalty"),
        ({"logit_bias": {"1": 2}}, "logit_bias is not offered by this server; leave it out",
         "logit_bias"),
        ({"model": 3}, "model must be text, got 3", "model"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_rule(fields, message, param, server):
    body = json.dumps({"prompt": "a", **fields}).encode()
    reply = server.client.post("/v1/completions", content=body)
    assert reply.status_code == 400
    found = reply.json()["error"]
    assert found["message"].startswith(message), found["message"]
    assert (found["type"], found["param"]) == ("invalid_request_error", param)


def test_fields_that_are_unknown_or_null_change_nothing(server):
    known = {"prompt": "an", "seed": 1}
    unknown = {"user": "me", "store": True, "x": {"y": [1]}, "best_of": 1, "presence_penalty": 0,
               "logit_bias": None, "stop": None, "n": None, "stream": None, "temperature": None,
               "max_tokens": None, "stream_options": None, "logprobs": None, "model": None}  # fmt: skip
    assert server.text(**known, **unknown) == server.text(**known)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body must be JSON, got another character at line 1, column 1"),
        (b"{", "the body must be JSON, got another character at line 1, column 2"),
        (b"[]", "the body must be a JSON object, got a list"),
        (b"null", "the body must be a JSON object, got null"),
        (b"\xff\xfe", "the body must be text in UTF-8"),
        (b'{"prompt": "\xc3"}', "the body must be text in UTF-8"),
        (b'{"n": NaN}', "the body must hold finite numbers, got NaN"),
        (b'{"n": 1, "n": 2}', "the body must have each key once, got 'n' twice"),
        (b'{"n": 1' + b"0" * 5000 + b"}", "the body must hold whole numbers of at most 20 digits"),
        (b"[" * 100_000, "the body must not be nested so deeply"),
    ],
    ids=range(10),
)
def test_a_body_that_is_no_json_object_is_refused(body, message, server):
    answers = [server.client.post(path, content=body) for path in
               ("/v1/completions", "/v1/chat/completions")]  # fmt: skip
    assert [(each.status_code, each.json()) for each in answers] == [(400, error(message))] * 2


def test_a_prompt_beyond_the_context_is_refused_before_a_stream_begins(server):
    for stream in (False, True):
        reply = server.post(prompt="a" * 16, stream=stream)
        assert reply.status_code == 400
        assert reply.json() == error(
            "prompt has 17 tokens with BOS, block_size is 16; shorten it to 15",
            code="context_length_exceeded",
        )
    assert server.text(prompt="a" * 15, seed=1, max_tokens=1) != "x"


def test_a_prompt_of_unknown_characters_is_refused(server):
    reply = server.post(prompt="aZ")
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("prompt: unknown token 'Z' at position 1")


def test_another_model_is_not_found(server):
    reply = server.post(model="gpt-4")
    assert reply.status_code == 404
    assert reply.json() == error(
        "model must be run, got 'gpt-4'", param="model", code="model_not_found"
    )


# -------------------------------------------------------------------------------------------- chat


def test_a_run_without_conversations_refuses_chat(server):
    reply = server.post("/v1/chat/completions", messages=HELLO)
    assert (reply.status_code, reply.json()) == (400, NOT_A_CHAT)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "messages must be a list of at least one message, got nothing"),
        ([], "messages must be a list of at least one message, got a list"),
        (["hi"], "messages[0] must be an object with role and content, got hi"),
        ([{"role": "wizard", "content": "x"}],
         "messages[0].role must be one of system, user, assistant, got wizard"),
        ([{"role": ["user"], "content": "x"}],
         "messages[0].role must be one of system, user, assistant, got a list"),
        ([*HELLO, {"role": "user"}],
         "messages[1].content must be text or a list of parts of type text, got nothing"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
         'messages[0].content[0] must be a part {"type": "text", "text": …}, got an object'),
    ],
)  # fmt: skip
def test_a_wrong_message_is_named_with_its_place(messages, message, server):
    reply = server.post("/v1/chat/completions", messages=messages)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == message


CHAT = "/v1/chat/completions"


def asked(content, **fields):
    return {"messages": [{"role": "developer", "content": "be brief"},
                         {"role": "user", "content": content}], "seed": 1, **fields}  # fmt: skip


@pytest.mark.parametrize(
    "content", ["an", [{"type": "text", "text": "a"}, {"type": "text", "text": "n"}]], ids=str
)
def test_a_chat_completion_is_a_message(content, chatting, model):
    reply = chatting.post(CHAT, **asked(content, max_completion_tokens=9, max_tokens=1)).json()
    text = model.generate("an", seed=1, max_new_tokens=9)[2:]
    assert reply.pop("id").startswith("chatcmpl-")
    reply.pop("created")
    (choice,) = reply.pop("choices")
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert reply["object"] == "chat.completion"
    assert reply["usage"]["prompt_tokens"] == 3


def test_the_first_delta_carries_the_role_and_the_last_the_reason(chatting, model):
    first, *parts, last = chatting.events(CHAT, **asked("an"))
    role = {"role": "assistant", "content": "", "refusal": None}
    assert first["choices"] == [
        {"index": 0, "delta": role, "logprobs": None, "finish_reason": None}
    ]
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert {each["object"] for each in (first, *parts, last)} == {"chat.completion.chunk"}
    deltas = [each["choices"][0]["delta"] for each in nonempty(parts)]
    assert "".join(delta["content"] for delta in deltas) == model.generate("an", seed=1)[2:]


def test_log_probabilities_of_a_chat_have_bytes(chatting, model):
    fields = asked("a", logprobs=True, top_logprobs=2, max_tokens=3)
    choice = chatting.post(CHAT, **fields).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(each["token"] for each in content) == choice["message"]["content"]
    assert [bytes(each["bytes"]).decode() for each in content] == [e["token"] for e in content]
    likeliest = [piece for piece, _ in model.next_tokens("a", k=2)]
    assert [each["token"] for each in content[0]["top_logprobs"]] == likeliest
    streamed = [each["choices"][0]["logprobs"] for each in chatting.events(CHAT, **fields)]
    assert [each for part in streamed if part for each in part["content"]] == content


# ----------------------------------------------------------------------------------- other paths


def test_the_model_is_listed(server):
    listed = server.client.get("/v1/models").json()
    (described,) = listed["data"]
    assert listed["object"] == "list"
    assert (described["id"], described["object"]) == ("run", "model")
    assert server.client.get("/v1/models/run").json() == described
    missing = server.client.get("/v1/models/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_health_stats_and_page(server):
    assert server.client.get("/health").json() == {"status": "ok"}
    page = server.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    before = server.stat("tokens_total")
    server.post(prompt="an", max_tokens=1)
    assert server.stat("tokens_total") == before + 1
    text = server.client.get("/stats").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in nonempty(lines):
        name, value = line.split(" ")
        assert name.startswith("nanochat_")
        assert float(value) >= 0


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/v1", "/v1/", "/../../etc/passwd", "/v1/models/../../../etc/passwd", "/%2e%2e/%2fetc",
     "/v1/completions/", "/v1/models/%00", "/v1/models/..%2f..%2fetc%2fpasswd"],
)  # fmt: skip
def test_there_is_nothing_at_another_path(path, server):
    answer = server.raw(
        f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    )
    assert status_of(answer) == 404
    assert body_of(answer)["error"]["type"] == "invalid_request_error"


def test_a_wrong_method_is_405(server):
    replies = [server.client.get("/v1/completions"), server.client.delete("/v1/models")]
    assert [each.status_code for each in replies] == [405, 405]
    assert replies[0].json() == error("GET is not a method of /v1/completions")


# ------------------------------------------------------------------------------------ who may ask


def test_pages_of_other_sites_are_refused(server):
    body = b'{"prompt": "a"}'
    refused = [
        request(body).replace(b"host: localhost", b"host: evil.example"),
        request(body).replace(b"host: localhost\r\n", b"host: \r\n"),
        request(body).replace(b"host: localhost\r\n", b"host: [::1\r\n"),
        request(body, "/v1/completions", "origin: https://evil.example"),
        request(body, "/v1/completions", "origin: null"),
    ]
    answers = [server.raw(each) for each in refused]
    assert [status_of(answer) for answer in answers] == [403] * 5
    assert body_of(answers[0])["error"]["code"] == "forbidden_host"
    assert body_of(answers[4])["error"]["code"] == "forbidden_origin"
    own = request(body, "/v1/completions", "origin: http://localhost")
    assert status_of(server.raw(own)) == 200


def test_a_server_with_a_key_answers_only_with_it(keyed):
    server, get = keyed, keyed.client.get
    denied = [
        get("/v1/models"), get("/stats"), server.post(prompt="a"),
        get("/v1/models", headers={"authorization": "Bearer wrong"}),
        get("/v1/models", headers={"authorization": KEY}),
        get("/v1/models", headers={"authorization": f"Basic {KEY}"}),
        get("/v1/models", headers=[(b"authorization", b"Bearer \xff")]),
    ]  # fmt: skip
    assert [each.status_code for each in denied] == [401] * 7
    message = "this server needs its API key, as the header authorization: Bearer KEY"
    assert denied[0].json() == error(message, code="invalid_api_key")
    assert denied[0].headers["www-authenticate"] == "Bearer"
    allowed = [
        get("/health"), get("/"), get("/v1/models", headers={"authorization": f"Bearer {KEY}"}),
        get("/v1/models", headers={"authorization": f"bearer {KEY}", "host": "other.example"}),
    ]  # fmt: skip
    assert [each.status_code for each in allowed] == [200] * 4
