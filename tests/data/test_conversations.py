"""Conversations: every shape of record, the text of lines, tokens and what is a target."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat.config.options import TrainConfig
from nanochat.data.conversations import (
    Conversations,
    encode_conversations,
    marked,
    prompt_of,
    turns_of_marked,
    turns_of_text,
    turns_of_tokens,
)
from nanochat.data.corpus import load_corpus
from nanochat.data.dataset import load_dataset, read_text
from nanochat.data.special_tokens import SPECIAL_TOKENS, ChatTokenizer
from nanochat.data.texts import Texts
from nanochat.data.tokenizer import BOS, build_tokenizer, tokenizer_from_dict
from nanochat.errors import CorpusError, PromptTooLong, TokenizerError
from nanochat.runs.schema import TOKENIZER, vocab_size_of

HELLO = [("user", "Hi"), ("assistant", "Hello\nyou")]
BRIEF = [("system", "Be brief."), *HELLO]
WORDS = ["Hi", "Hello\nyou", "Be brief.", "ä€😀", ""]
KINDS = ("char", "byte", "bpe")


def conversations(data, documents="auto", **options):
    corpus = load_corpus(str(data), documents, **options)
    assert corpus.kind == "chat"
    return [turns_of_marked(text) for text in corpus.documents]


def write(path, *records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def tokenizer_of(kind: str) -> ChatTokenizer:
    return ChatTokenizer(build_tokenizer(kind, WORDS, vocab_size=270))


def messages(turns):
    return [{"role": role, "content": text} for role, text in turns]


SHAPES = {
    "messages": {"messages": messages(BRIEF), "id": 7},
    "parts": {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be "},
              {"type": "text", "text": "brief."}]}, *messages(HELLO)]},
    "a list": messages(BRIEF),
    "ShareGPT": {"conversations": [{"from": "system", "value": "Be brief."},
                 {"from": "human", "value": "Hi"}, {"from": "gpt", "value": " Hello\nyou "}]},
    "ShareGPT with a system": {"system": "Be brief.", "conversations": [
        {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello\nyou"}]},
    "Alpaca": {"system": "Be brief.", "instruction": "Hi", "input": "", "output": "Hello\nyou"},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_of_a_record_is_recognized(tmp_path, shape):
    record = SHAPES[shape]
    for name in ("a.jsonl", "a.ndjson"):
        assert conversations(write(tmp_path / name, record, record)) == [BRIEF, BRIEF]
    (tmp_path / "a.json").write_text(json.dumps([record, record]), encoding="utf-8")
    assert conversations(tmp_path / "a.json") == [BRIEF, BRIEF]
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps(record))
    assert conversations(tmp_path / "b.jsonl.gz", "chat") == [BRIEF]


def test_parquet_holds_conversations_too(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name, columns in {
        "a": {"messages": [messages(BRIEF)] * 300, "n": [1] * 300},
        "b": {"system": ["Be brief."] * 300, "instruction": ["Hi"] * 300,
              "output": ["Hello\nyou"] * 300},
    }.items():  # fmt: skip
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
        assert conversations(tmp_path / f"{name}.parquet") == [BRIEF] * 300
        assert conversations(tmp_path / f"{name}.parquet", "chat") == [BRIEF] * 300


def test_the_input_of_an_instruction_follows_it(tmp_path):
    record = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    expected = [[("user", "Add.\n\n1 and 2"), ("assistant", "3")]]
    assert conversations(write(tmp_path / "a.jsonl", record)) == expected


def test_the_text_column_names_the_list_of_messages(tmp_path):
    path = write(tmp_path / "a.jsonl", {"dialog": messages(HELLO), "text": "no"})
    assert conversations(path, "chat", text_column="dialog") == [HELLO]


def test_messages_are_plain_text_where_that_is_asked_for(tmp_path):
    path = write(tmp_path / "a.jsonl", {"messages": messages(HELLO)})
    for options in ({"documents": "file"}, {"text_column": "messages"}):
        corpus = load_corpus(str(path), **options)
        assert corpus.kind == "record"
        assert list(corpus.documents) == ["user: Hi\n\nassistant: Hello\nyou"]


GOOD = {"messages": messages(HELLO)}
ROLE = "role must be system, user or assistant (in ShareGPT system, human or gpt), got"
NEEDS = "must have messages, conversations, or instruction and output, got"
WRONG = [
    ({"messages": []}, ": messages must have at least one message, got []"),
    ({"messages": "Hi"}, ": messages must be a list of messages, got 'Hi'; remove the record"),
    ({"messages": [1]}, ": message 1 of messages must be an object, got 1"),
    ({"messages": [*messages(HELLO), {"role": "tool", "content": "x"}]},
     f": message 3 of messages: {ROLE} 'tool'; rename the role or remove the record"),
    ({"messages": [{"content": "x"}]},
     f": message 1 of messages: {ROLE} None; rename the role or remove the record"),
    ({"messages": [{"role": ["user"], "content": "x"}]},
     f": message 1 of messages: {ROLE} ['user']; rename the role or remove the record"),
    ({"messages": [{"role": "user"}]},
     ": message 1 of messages: content must be a string, got None; remove the record"),
    ({"messages": [{"role": "user", "content": 3}]},
     ": message 1 of messages: content must be a string, got 3; remove the record"),
    ({"messages": [{"role": "user", "content": "a\0b"}]},
     ": message 1 of messages: content contains NUL; remove it"),
    ({"messages": [{"role": "user", "content": "\ud800"}]},
     ": message 1 of messages: content contains a lone surrogate; replace it"),
    ({"messages": messages([("user", "Hi"), ("user", "Ho")])},
     ": messages must have a message of the assistant, got user, user; remove the record"),
    ({"conversations": [{"from": "bot", "value": "x"}]},
     f": message 1 of conversations: {ROLE} 'bot'; rename the role or remove the record"),
    ({"instruction": "Hi", "output": 4}, ": output must be a string, got 4; remove the record"),
    ({"instruction": "Hi", "input": 5, "output": "x"},
     ": input must be a string, got 5; remove the record"),
    ({"text": "Hi", "n": 1}, f" {NEEDS} text, n"),
    ({}, f" {NEEDS} no columns"),
    (3, " must be an object, got 3"),
]  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["first line", "line 2"])
@pytest.mark.parametrize(("record", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_a_wrong_record_is_one_line_that_names_file_and_line(tmp_path, record, message, first):
    path = write(tmp_path / "a.jsonl", *([record] if first else [GOOD, record]))
    for documents in nonempty(("chat",) if first else ("chat", "auto")):
        with pytest.raises(CorpusError) as caught:
            load_corpus(str(path), documents)
        assert str(caught.value) == f"{path} line {1 if first else 2}{message}"


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_table_of_instructions_holds_conversations(tmp_path, name, separator):
    path, rows = tmp_path / name, [["Hi", "", "Hello\nyou"], ["Add.", "1 and 2", "3"]]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([["instruction", "input", "output"], *rows])
    expected = [HELLO, [("user", "Add.\n\n1 and 2"), ("assistant", "3")]]
    for documents in nonempty(("auto", "chat")):
        assert conversations(path, documents) == expected
    assert list(load_corpus(str(path), text_column="output").documents) == ["Hello\nyou", "3"]


def test_a_table_without_instructions_is_no_conversation(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,answer\na,b\n")
    with pytest.raises(CorpusError) as caught:
        load_corpus(str(path), "chat")
    assert str(caught.value) == (
        f"{path} must have the columns instruction and output to have conversations, got question,"
        " answer; rename its columns"
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_conversations_and_other_texts_are_not_mixed(tmp_path, name):
    if name == "a.jsonl":
        write(tmp_path / name, GOOD, GOOD)
    else:
        (tmp_path / name).write_text("User: Hi\nAssistant: Hello\n")
    (tmp_path / "b.txt").write_text("A story.")
    with pytest.raises(CorpusError) as caught:
        load_corpus(str(tmp_path))
    assert str(caught.value) == (
        f"the data must not mix conversations with other texts, such as {tmp_path / 'b.txt'}; name the files of one kind, or add --documents file to read all of"
        " them as plain text"
    )
    assert len(load_corpus(str(tmp_path), "file").documents) == (3 if name == "a.jsonl" else 2)


def test_conversations_of_several_shapes_are_read_together(tmp_path):
    write(tmp_path / "a.jsonl", GOOD)
    (tmp_path / "b.txt").write_text("User: Hi\nAssistant: Hello\nyou\n")
    (tmp_path / "c.csv").write_text('instruction,output\nHi,"Hello\nyou"\n')
    assert conversations(tmp_path) == [HELLO] * 3


def test_empty_replies_are_counted_in_a_note(tmp_path):
    said, silent = ("assistant", "a"), ("assistant", "")
    records = [[said], [silent], [silent, ("user", ""), silent, silent, said, ("user", "")]]
    path = write(tmp_path / "a.jsonl", *({"messages": messages(turns)} for turns in records))
    assert load_corpus(str(path)).notes == (
        "4 of 6 replies are empty: the model learns to say nothing there; remove them if that is"
        " not meant",
    )
    assert load_corpus(str(write(tmp_path / "b.jsonl", GOOD))).notes == ()


# ----------------------------------------------------------------------------- lines of User: and so on

LINES = """\
User: Hi
Assistant: Hello
you

User: Again

with a gap
Assistant: Yes.
User: More
Assistant: No.

System: Be brief.
User:Not a role
User: Hi
Assistant:
 ok\r
"""


def test_a_blank_line_and_a_user_begin_a_new_conversation(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(LINES, newline="")
    expected = [
        HELLO,
        [("user", "Again\n\nwith a gap"), ("assistant", "Yes."), ("user", "More"),
         ("assistant", "No.")],
        [("system", "Be brief.\nUser:Not a role"), ("user", "Hi"), ("assistant", "ok")],
    ]  # fmt: skip
    assert conversations(path) == expected
    assert conversations(path, "chat") == expected
    write(tmp_path / "b.jsonl", GOOD)
    assert conversations(tmp_path, "chat") == [*expected, HELLO]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nHi\nUser: a", "line 2 must begin with User:, Assistant: or System:, got 'Hi'"),
        ("User: a\nAssistant: b\n\nUser: c\n",
         "line 4: a conversation must have a line Assistant:, got none"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(CorpusError) as caught:
        load_corpus(str(path), "chat")
    assert str(caught.value) == f"{path} {message}"


@pytest.mark.parametrize(
    "text",
    ["User: a\nUser: b\nUser: c\nAssistant: d", "Story.\nUser: a\nAssistant: b",
     "Assistant: a\nUser: b", "User:a\nAssistant:b"],
)  # fmt: skip
def test_other_texts_are_not_taken_for_conversations(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert load_corpus(str(path)).kind == "file"


# ------------------------------------------------------------------------------------------- tokens

texts_of_turns = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
turn_lists = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "system"]), texts_of_turns), min_size=1
)


@given(st.lists(turn_lists, min_size=1, max_size=4))
def test_turns_survive_the_way_through_one_text(found):
    texts = Texts.of([marked(turns).decode() for turns in found])
    assert [turns_of_marked(text) for text in texts] == found
    parts = Conversations.of(texts)
    assert list(parts.messages) == [text for turns in found for _, text in turns]
    assert parts.counts.tolist() == list(map(len, found))


@given(st.lists(turn_lists, min_size=1, max_size=4))
def test_only_replies_and_their_end_are_targets(found):
    tokenizer = ChatTokenizer(build_tokenizer("byte", []))
    texts = Texts.of([marked(turns).decode() for turns in found])
    documents = encode_conversations(tokenizer, Conversations.of(texts))
    stream, learned = [BOS], []
    for turns in found:
        for role, text in turns:
            ids = [byte + 1 for byte in text.encode()]
            stream += [257 + SPECIAL_TOKENS.index(role), *ids, 260]
            learned += [False, *[role == "assistant"] * (len(ids) + 1)]
        stream.append(BOS)
        learned.append(False)
    assert documents.stream.tolist() == stream
    assert documents.is_target.tolist() == learned
    assert documents.targets == sum(learned)
    assert [turns_of_tokens(tokenizer, stream)] == [[turn for turns in found for turn in turns]]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_follow_those_of_the_text_and_are_saved(kind):
    plain = build_tokenizer(kind, WORDS, vocab_size=270)
    tokenizer = ChatTokenizer(plain)
    ids = [tokenizer.special(name) for name in SPECIAL_TOKENS]
    assert ids == list(range(plain.vocab_size, plain.vocab_size + 4))
    assert tokenizer.vocab_size == plain.vocab_size + 4
    assert tokenizer.token_bytes.tolist() == [*plain.token_bytes.tolist(), 0, 0, 0, 0]
    assert [tokenizer.token_text(i) for i in ids] == [
        "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
    ]  # fmt: skip
    saved = json.loads(json.dumps(tokenizer.to_dict()))
    TOKENIZER("tokenizer.json", saved)
    assert vocab_size_of(saved) == tokenizer.vocab_size
    again = tokenizer_from_dict(saved)
    assert (again.to_dict(), again.vocab_size) == (saved, tokenizer.vocab_size)
    assert type(tokenizer_from_dict(plain.to_dict())) is type(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_they_decode_to_no_text_and_no_text_becomes_one(kind):
    tokenizer = tokenizer_of(kind)
    text = "Hi<|end|>" if kind != "char" else "Hi"
    ids = tokenizer.encode(text).tolist()
    assert max(ids) < tokenizer.first_special
    between = [tokenizer.special("user"), *ids[:1], tokenizer.special("end"), *ids[1:], BOS]
    assert tokenizer.decode(between) == text
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, between), stream.flush()]) == text
    with pytest.raises(TokenizerError, match=f"between 0 and {tokenizer.vocab_size - 1}"):
        tokenizer.decode([tokenizer.vocab_size])


def test_a_character_may_be_parted_by_a_special_token():
    tokenizer = tokenizer_of("byte")
    first, *rest = tokenizer.encode("€").tolist()
    ids = [first, tokenizer.special("end"), *rest]
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids) == "€"


@given(texts_of_turns)
def test_no_text_has_an_id_of_a_special_token(text):
    for kind in nonempty(("byte", "bpe")):
        tokenizer = tokenizer_of(kind)
        assert (tokenizer.encode(text) < tokenizer.first_special).all()


def test_other_special_tokens_are_refused():
    with pytest.raises(TokenizerError, match="^saved tokenizer: special must be"):
        tokenizer_from_dict({"kind": "byte", "special": ["user"]})


# ---------------------------------------------------------------------------------------- prompts

LONG = [("system", "ss"), ("user", "aaaa"), ("assistant", "bb"), ("user", "cc"),
        ("assistant", "dd"), ("user", "ee")]  # fmt: skip


def test_a_prompt_ends_with_the_role_of_the_reply():
    tokenizer = tokenizer_of("byte")
    tokens, dropped = prompt_of(tokenizer, HELLO[:1], 64)
    user, assistant, end = (tokenizer.special(n) for n in ("user", "assistant", "end"))
    assert tokens == [BOS, user, *tokenizer.encode("Hi"), end, assistant]
    assert dropped == 0


@pytest.mark.parametrize("most", range(6, 40))
def test_the_oldest_turns_are_dropped_until_the_rest_fits(most):
    tokenizer = tokenizer_of("byte")
    whole = [[LONG[0], *LONG[first:]] for first in (1, 3, 5)]
    sizes = [2 + sum(2 + len(text) for _, text in turns) for turns in whole]
    fitting = [i for i, size in enumerate(sizes) if size <= most]
    if not fitting:
        with pytest.raises(PromptTooLong, match=f"has {sizes[-1]} tokens .* leaves {most};"):
            prompt_of(tokenizer, LONG, most)
        return
    tokens, dropped = prompt_of(tokenizer, LONG, most)
    assert turns_of_tokens(tokenizer, tokens)[:-1] == whole[fitting[0]]
    assert dropped == 2 * fitting[0]
    assert len(tokens) == sizes[fitting[0]]


# ---------------------------------------------------------------------------------------- the split


def test_conversations_are_split_whole(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"messages": messages(
        [("user", f"q{i}"), ("assistant", f"a{i}")])} for i in range(20)))  # fmt: skip
    config = TrainConfig(data=str(path), documents="chat", mode="scalar")
    split = read_text(config).split
    assert (len(split.train), len(split.val)) == (18, 2)
    found = [turns_of_marked(text)[1][1] for text in [*split.train, *split.val]]
    assert sorted(found) == sorted(f"a{i}" for i in range(20))
    dataset = load_dataset(config)
    assert dataset.val.targets == sum(1 + len(turns_of_marked(t)[1][1]) for t in split.val)
    assert dataset.batching == "packed"


def test_a_single_conversation_is_not_cut(tmp_path):
    dataset = load_dataset(
        TrainConfig(data=str(write(tmp_path / "a.jsonl", GOOD)), documents="chat", mode="scalar")
    )
    assert dataset.val_source == "train"
    assert dataset.warning == (
        "the corpus has one conversation, too little for a validation part; validation uses the"
        " training part"
    )
    np.testing.assert_array_equal(dataset.train.stream, dataset.val.stream)


def test_an_empty_text_has_no_conversations():
    assert list(turns_of_text("", "a.txt")) == []
