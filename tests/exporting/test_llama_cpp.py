"""GGUF files in llama.cpp itself. `pip install llama-cpp-python` builds it from source."""

from __future__ import annotations

import json

import pytest
from exporting.conftest import ANSWERS
from exporting.test_chat import NAMES, TALKS, WIDER, messages, our_prompt
from exporting.test_tokenizer_json import texts
from nonempty import nonempty

import nanochat
from nanochat import ExportConfig

pytestmark = pytest.mark.long

CHANGES: dict[str, dict[str, object]] = {
    "char": {},
    "byte": {"tokenizer": "byte"},
    "gpt-2": {"tokenizer": "bpe", "vocab_size": 300, "bpe_pattern": "gpt-2"},
    "llama-bpe": {"tokenizer": "bpe", "vocab_size": 300, "bpe_pattern": "llama-bpe"},
    "one document": {"documents": "file"},
}


@pytest.fixture(scope="module", params=CHANGES)
def run(exportable, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("llama") / "run"
    config = nanochat.load(exportable["char"]).config
    nanochat.train(config.changed(out=str(folder), **CHANGES[request.param]))
    return folder


@pytest.mark.parametrize("weights", ["f32", "f16", "q8_0"])
def test_the_command_compares_with_llama_cpp(run, cli, weights):
    result = cli("export", str(run), "--to", "gguf", "--weights", weights, "--json")
    assert result.code == 0, result.err
    verified = json.loads(result.out)["verified"]
    assert verified["program"].startswith("llama.cpp (llama-cpp-python ")
    assert verified["tokenizer"] is True
    assert verified["difference"] <= {"f32": 1e-4, "f16": 0.01, "q8_0": 0.2}[weights]


def test_texts_are_split_alike_and_written_alike(run, tmp_path):
    import llama_cpp

    folder = nanochat.export(ExportConfig(run=str(run), to="gguf", out=str(tmp_path / "e"))).folder
    theirs = llama_cpp.Llama(
        str(folder / "model.gguf"), n_ctx=16, verbose=False, type_k=0, type_v=0, flash_attn=False
    )
    model = nanochat.load(run, threads=1)
    bos = [0] if model._start == [0] else []
    known = set(model.tokenizer.characters) if model.tokenizer.kind == "char" else None
    split = 0
    for text in texts(5000, seed=2):
        text = text if known is None else "".join(c for c in text if c in known)
        ids = [*bos, *model.tokenizer.encode(text).tolist()]
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == ids, text
        split += len(ids) > 1
    assert split > 1000
    prompt = "anna u"
    written = theirs(prompt, max_tokens=8, temperature=0)["choices"][0]["text"]
    assert prompt + written == model.generate(prompt, temperature=0, max_new_tokens=8)


@pytest.fixture(scope="module", params=["char", "byte", "bpe"])
def talker(chats, request):
    """A run of conversations, and its file in llama.cpp."""
    import llama_cpp

    run = chats[request.param]
    folder = nanochat.export(ExportConfig(run=str(run), to="gguf")).folder
    return run, llama_cpp.Llama(
        str(folder / "model.gguf"), n_ctx=256, verbose=False, type_k=0, type_v=0, flash_attn=False
    )


def rendered(theirs, given):  # the prompt of create_chat_completion, as it makes it
    from llama_cpp import llama_chat_format

    formatter = llama_chat_format.Jinja2ChatFormatter(
        template=theirs.metadata["tokenizer.chat_template"], bos_token="?", eos_token="?"
    )
    text = formatter(messages=given).prompt.encode()
    return theirs.tokenize(text, add_bos=False, special=True)


def test_the_template_in_a_file_makes_the_tokens_of_our_prompt(talker):
    """But for names of special tokens in texts, which get a space and so stay texts."""
    run, theirs = talker
    model = nanochat.load(run)
    talks = TALKS if model.tokenizer.kind == "char" else {**TALKS, **WIDER}
    for talk in nonempty(talks.values()):
        given = messages(talk)
        split = [{**each, "content": split_names(each["content"])} for each in given]
        assert rendered(theirs, given) == our_prompt(model, split), talk


def split_names(text):
    for name in NAMES:
        text = text.replace(name, f"< {name[1:]}")
    return text


def test_replies_are_ours_and_stop_at_the_end_token(talker):
    run, theirs = talker
    model = nanochat.load(run, threads=1)
    end = model.tokenizer.special("end")
    assert theirs.token_eos() == end
    reasons = set()
    for question, answer in nonempty(ANSWERS.items()):
        given = messages(["hi", "hello you", question])
        most = 48 - len(our_prompt(model, given))
        (choice,) = theirs.create_chat_completion(
            given, max_tokens=most, temperature=0, repeat_penalty=1
        )["choices"]
        ours = model.chat(given, temperature=0, max_new_tokens=most)
        assert choice["message"]["content"] == ours == answer
        reasons.add(choice["finish_reason"])
    assert reasons == {"stop"}
