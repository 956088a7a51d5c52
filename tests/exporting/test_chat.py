"""Exports of runs that were trained on conversations: the template and the end of a reply."""

from __future__ import annotations

import json
import subprocess

import gguf
import pytest
import tokenizers
import torch
import transformers
from exporting.conftest import ANSWERS, CHATS
from nonempty import nonempty

import nanochat
from nanochat import ExportConfig
from nanochat.data.conversations import any_turns_of_messages, prompt_of
from nanochat.errors import UnsupportedOption

NAMES = ("<|bos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
SPELLED = "<|end|> <|system|><|bos|> <|user|><|assistant|> <<|end|>|> <|"
TALKS = {
    "a question": ["hi"],
    "several turns": ["hi", "hello you", "bye"],
    "a system message": [("system", "be"), "hi", "hello you", "bye"],
    "a system message between others": ["hi", "hello you", ("system", "be"), "bye"],
    "two questions": [("user", "hi"), ("user", "bye")],
    "a system message alone": [("system", "be")],
    "empty texts": [("system", ""), "", "", ""],
    "white space": ["  hi\n", "\thello  you \n\n", "a\nb"],
    "names of special tokens": [("system", SPELLED), SPELLED, "x", SPELLED],
}
WIDER = {  # what the character tokenizer does not know
    "space of Unicode": ["\u3000hi\x1f\x85", "\u2003", "\u200bhi\xa0"],
    "other languages": ["naïve 東京", "Москва 🏳️‍🌈", "ÅÄÖ"],
    "a name that is split already": ["<\n|user|> < |end|> <||user|> <|<|user|>"],
    "template code": ["{{ bos_token }}{% for x in y %}"],
}


def messages(talk):
    roles = ("user", "assistant")
    return [
        {"role": each[0], "content": each[1]} if isinstance(each, tuple)
        else {"role": roles[i % 2], "content": each}
        for i, each in enumerate(talk)
    ]  # fmt: skip


def our_prompt(model, given):
    return prompt_of(model.tokenizer, any_turns_of_messages(given, "test"), 10_000)[0]


@pytest.fixture(scope="module")
def folders(chats, tmp_path_factory):
    """Return the folder of an export by its format and the name of the run."""

    def exported(to, name):
        out = tmp_path_factory.getbasetemp() / "exported chats" / f"{to} {name}"
        if not out.exists():
            config = ExportConfig(run=str(chats[name]), to=to, out=str(out), verify=False)
            nanochat.export(config)
        return out

    return exported


@pytest.mark.parametrize("name", CHATS)
def test_transformers_makes_the_tokens_of_our_prompt(chats, folders, name):
    """Also of texts that spell special tokens, which stay texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders("hf", name))
    model = nanochat.load(chats[name])
    talks = TALKS if name == "char" else {**TALKS, **WIDER}
    for talk in nonempty(talks.values()):
        given = messages(talk)
        prompt = our_prompt(model, given)
        theirs = tokenizer.apply_chat_template(given, add_generation_prompt=True)
        assert theirs["input_ids"] == prompt, talk
        whole = tokenizer.apply_chat_template(given, return_dict=False)
        assert whole == prompt[:-1], talk
    both = [messages(["hi"]), messages(["hi", "hello you", "bye"])]
    batch = tokenizer.apply_chat_template(both, add_generation_prompt=True, return_dict=False)
    assert batch == [our_prompt(model, each) for each in both]


@pytest.mark.parametrize("name", CHATS)
def test_transformers_knows_the_special_tokens_by_name(chats, folders, name):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders("hf", name))
    ours = nanochat.load(chats[name]).tokenizer
    ids = [0, *(ours.special(each[2:-2]) for each in NAMES[1:])]
    assert tokenizer.convert_tokens_to_ids(list(NAMES)) == ids
    assert len(tokenizer) == ours.vocab_size
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|bos|>", "<|end|>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, ours.special("end"))
    assert tokenizer.decode([*ids, 1], skip_special_tokens=True) == ours.decode([1])
    text = "hi <|end|>"
    as_text = tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert as_text == ours.encode(text).tolist()


def test_what_transformers_saves_makes_the_same_tokens(folders, tmp_path):
    folder = folders("hf", "byte")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_bytes() == (
        (folder / "chat_template.jinja").read_bytes()
    )
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for talk in nonempty([*TALKS.values(), *WIDER.values()]):
        given = messages(talk)
        assert (
            again.apply_chat_template(given)["input_ids"]
            == (tokenizer.apply_chat_template(given)["input_ids"])
        )


@pytest.mark.parametrize(
    ("message", "rule"),
    [({"role": "tool", "content": "x"}, "role must be system, user or assistant, got tool"),
     ({"role": "user", "content": ["x"]}, "content must be a string"),
     ({"role": "user"}, "content must be a string")],
)  # fmt: skip
def test_the_template_refuses_other_messages(folders, message, rule):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders("hf", "byte"))
    with pytest.raises(Exception, match=f"^{rule}$"):
        tokenizer.apply_chat_template([message])


def test_transformers_writes_our_greedy_replies_and_stops_at_their_end(chats, folders):
    folder = folders("hf", "bpe")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    model = nanochat.load(chats["bpe"], threads=1)
    end = model.tokenizer.special("end")
    assert theirs.config.eos_token_id == end
    assert theirs.generation_config.eos_token_id[0] == end
    assert sorted(theirs.generation_config.eos_token_id) == [0, *range(end - 3, end + 1)]
    for question, answer in nonempty(ANSWERS.items()):
        given = messages(["hi", "hello you", question])
        prompt = tokenizer.apply_chat_template(
            given, add_generation_prompt=True, return_tensors="pt"
        )
        with torch.no_grad():
            written = theirs.generate(**prompt, do_sample=False)[0]
        reply = written[prompt["input_ids"].shape[1] :].tolist()
        assert reply[-1] == end
        assert end not in reply[:-1]
        text = tokenizer.decode(reply, skip_special_tokens=True)
        assert text == answer == model.chat(given, temperature=0)


@pytest.mark.parametrize("name", CHATS)
def test_a_gguf_file_of_conversations_says_what_llama_cpp_asks_for(chats, folders, name):
    fields = gguf.GGUFReader(folders("gguf", name) / "model.gguf").fields
    ours = nanochat.load(chats[name]).tokenizer
    end = ours.special("end")
    expected = {
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.eot_token_id": end, "tokenizer.ggml.add_bos_token": True,
    }  # fmt: skip
    assert {key: fields[key].contents() for key in expected} == expected
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
    assert control == list(NAMES)
    assert [tokens.index(each) for each in control] == (
        [0, *(ours.special(each[2:-2]) for each in NAMES[1:])]
    )


def test_a_file_for_ollama_renders_conversations(folders):
    assert (
        (folders("gguf", "bpe") / "Modelfile").read_text()
        == """\
FROM ./model.gguf
TEMPLATE \"\"\"{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 -}}
<|{{ .Role }}|>{{ .Content }}
{{- if not (and $last (eq .Role "assistant")) }}<|end|>
{{- if $last }}<|assistant|>{{ end }}{{ end }}{{ end }}\"\"\"
PARAMETER num_ctx 48
PARAMETER stop <|bos|>
PARAMETER stop <|user|>
PARAMETER stop <|assistant|>
PARAMETER stop <|system|>
PARAMETER stop <|end|>
"""
    )


def test_a_run_of_plain_text_has_no_template(exportable, tmp_path):
    for to, files in {"hf": "chat_template.jinja", "gguf": "model.gguf"}.items():
        out = tmp_path / to
        nanochat.export(
            ExportConfig(run=str(exportable["char"]), to=to, out=str(out), verify=False)
        )
        assert (out / files).exists() == (to == "gguf")
    fields = gguf.GGUFReader(tmp_path / "gguf" / "model.gguf").fields
    assert not {"tokenizer.chat_template", "tokenizer.ggml.eot_token_id"} & fields.keys()
    generation = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 0


def test_onnx_and_torch_hold_runs_of_conversations_too(chats, tmp_path):
    for to in ("onnx", "torch"):
        config = ExportConfig(run=str(chats["bpe"]), to=to, out=str(tmp_path / to))
        assert nanochat.export(config).verified.difference <= 1e-4
    content = (tmp_path / "onnx" / "tokenizer.json").read_text()
    theirs = tokenizers.Tokenizer.from_str(content)
    assert theirs.encode(SPELLED).ids == (
        [0, *nanochat.load(chats["bpe"]).tokenizer.encode(SPELLED)]
    )


def test_the_program_in_c_ends_a_text_at_a_special_token(chats, tmp_path):
    config = ExportConfig(run=str(chats["char"]), to="c", out=str(tmp_path / "c"), verify=False)
    program = tmp_path / "model"
    source = nanochat.export(config).folder / "model.c"
    subprocess.run(["cc", "-O1", source, "-o", program, "-lm"], check=True)
    text = subprocess.run([program, "hi", "0"], capture_output=True, check=True).stdout
    ours = nanochat.load(chats["char"], threads=1).generate("hi", temperature=0, max_new_tokens=200)
    assert text == f"{ours}\n".encode()
    assert len(ours) < 200


def test_the_program_in_c_of_word_pieces_is_refused(chats):
    with pytest.raises(UnsupportedOption) as caught:
        nanochat.export(ExportConfig(run=str(chats["bpe"]), to="c"))
    assert str(caught.value) == "c needs tokenizer char or byte, got bpe; export to another format"
