"""`nanochat chat`: replies, the history, commands, completion, interrupts and a terminal."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from nonempty import nonempty

import nanochat
from nanochat.commands import chat as module
from nanochat.config.options import ChatConfig, TrainConfig
from nanochat.data.conversations import turns_of_tokens
from nanochat.errors import CorpusError
from nanochat.sampling.replies import reply_prompt

ANSWERS = {"hi": "hello you", "bye": "see you", "a\nb": "two"}
GREEDY = ["--temperature", "0"]


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A run that has learned a few answers by heart, and a run of plain text."""
    folder = tmp_path_factory.mktemp("chat")
    talks = [
        "".join(f"User: {q}\nAssistant: {a}\n" for q, a in talk)
        for talk in product(ANSWERS.items(), repeat=3)
    ]
    (folder / "chat.txt").write_text("\n".join(talks))
    shape = {"mode": "scalar", "preset": "pico", "n_embd": 32, "n_head": 2, "block_size": 48,
             "num_samples": 0, "ngram_order": 0, "threads": 1}  # fmt: skip
    nanochat.train(TrainConfig(
        data=str(folder / "chat.txt"), steps=400, batch_size=8, out=str(folder / "run"), **shape))  # fmt: skip
    (folder / "plain.txt").write_text("abababababab\n" * 30)
    nanochat.train(TrainConfig(
        data=str(folder / "plain.txt"), steps=30, out=str(folder / "plain"), **shape))  # fmt: skip
    return folder


@pytest.fixture
def talk(talker, cli, monkeypatch, tmp_path):
    """`nanochat chat` with these lines on standard input."""
    monkeypatch.chdir(tmp_path)

    def run(*lines, options=(), run="run"):
        text = io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in lines).encode()))
        monkeypatch.setattr(sys, "stdin", text)
        return cli("chat", str(talker / run), *GREEDY, *options)

    return run


def test_each_line_of_a_pipe_gets_a_reply_on_stdout(talk):
    result = talk("hi", "", "bye", options=["--quiet"])
    assert (result.code, result.out, result.err) == (0, "hello you\nsee you\n", "")


def test_the_first_line_on_stderr_names_the_run_and_its_window(talk, talker):
    path = nanochat.load(talker / "run").checkpoint
    assert talk().err == f"talking with {path}, context window 48 tokens\n"


def test_replies_are_those_of_the_python_method(talk, talker):
    model = nanochat.load(talker / "run")
    for question, answer in nonempty(ANSWERS.items()):
        messages = [{"role": "user", "content": question}]
        assert model.chat(messages, temperature=0) == answer
    drawn = model.chat([{"role": "user", "content": "hi"}], temperature=30.0, seed=5)
    result = talk("/temperature 30", "hi", options=["--quiet", "--seed=5"])
    assert drawn != "hello you"
    assert result.out == f"{drawn}\n"


def test_json_is_the_conversation(talk):
    shown = json.loads(talk("hi", "bye", options=["--json", "--system", "be"]).out)
    assert shown["messages"][0] == {"role": "system", "content": "be"}
    assert [m["content"] for m in shown["messages"][1::2]] == ["hi", "bye"]


def test_lines_are_joined_by_a_backslash_and_between_quotes(talk):
    result = talk("a\\", "b", "/clear", '"""', "a", "b", '"""', options=["--quiet"])
    assert (result.code, result.out) == (0, "two\ntwo\n")


def test_the_oldest_turns_are_dropped_with_a_note(talk, talker):
    result = talk(*["hi"] * 5)
    notes = [line for line in result.err.splitlines() if "context window of" in line]
    assert notes == [
        "the context window of 48 tokens is full; left out: the oldest 2 messages",
        "the context window of 48 tokens is full; left out: the oldest 4 messages",
    ]
    assert result.out == "hello you\n" * 5
    model = nanochat.load(talker / "run")
    turns = [("user", "hi"), ("assistant", "hello you")] * 3 + [("user", "hi")]
    prompt = reply_prompt(model.tokenizer, turns, 48, 200)
    assert len(prompt.tokens) <= 36  # a quarter is left to the reply
    assert turns_of_tokens(model.tokenizer, prompt.tokens)[:-1] == turns[prompt.dropped :]


def test_a_message_that_cannot_be_answered_ends_a_pipe(talk):
    result = talk("hi" * 60, "hi")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1] == (
        "error: the conversation has 124 tokens with those of its roles, and the context window"
        " leaves 48; shorten the message"
    )
    unknown = talk("QQ")
    assert unknown.err.splitlines()[-1].startswith("error: message: unknown token 'Q' at position")


def test_bytes_that_are_no_text_are_refused_in_one_line(talker, cli, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"h\xff\n"), encoding="utf-8"))
    result = cli("chat", str(talker / "run"))
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        "error: line 1 of standard input must be text in the encoding utf-8, got the byte 0xff;"
        " convert it, as with iconv"
    )


def test_a_byte_order_mark_is_no_part_of_the_first_message(talk):
    assert talk("\ufeffhi", options=["--quiet"]).out == "hello you\n"
    assert (
        talk("hi", "\ufeffhi")
        .err.splitlines()[-1]
        .startswith("error: message: unknown token '\\ufeff' at position 0")
    )


# ----------------------------------------------------------------------------------------- commands


def test_options_change_in_the_conversation(talk):
    result = talk("/temperature 0.5", "/top-k 30000000", "/temperature 0", "hi")
    assert result.err.splitlines()[1:] == ["temperature 0.5", "top-k 30000000", "temperature 0"]
    assert result.out == "hello you\n"


def test_an_option_without_a_value_is_shown(talk):
    result = talk("/temperature", "/top-k", "/top-k 5", "/top-k")
    assert result.err.splitlines()[1:] == ["temperature 0", "top-k 0", "top-k 5", "top-k 5"]


def test_exit_leaves(talk):
    result = talk("hi", "/exit", "bye", options=["--quiet"])
    assert (result.code, result.out, result.err) == (0, "hello you\n", "")


def test_a_slash_begins_a_message_after_a_space_and_between_quotes(talk):
    for lines in nonempty(([" /hi"], ['"""', "/hi", '"""'])):
        assert talk(*lines).err.splitlines()[1:] == [
            "error: message: unknown token '/' at position 0; use characters of the training"
            " corpus, or train with tokenizer byte"
        ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temperature hot", "/temperature must be finite and between 0 and 10000, got hot"),
        ("/top-k -1", "/top-k must be a whole number between 0 and 1073741824, got -1"),
        ("/tempertaure 1", "unknown command /tempertaure (did you mean '/temperature'?); put a"
         " space before the slash to send it as a message"),
        ("/x", "unknown command /x; the commands are /temperature, /top-k, /retry, /clear, /save,"
         " /help, /exit; put a space before the slash to send it as a message"),
        ("/clear all", "/clear takes no value, got all; leave it out"),
        ("/retry", "/retry needs a reply before it; write a message first"),
        ("/save a.jsonl", "/save needs a conversation; write a message first"),
        ("/save a.txt", "/save needs a file that ends in .jsonl, got a.txt"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_line(talk, line, message):
    result = talk(line)
    assert (result.code, result.err.splitlines()[1:]) == (2, [f"error: {message}"])


def test_retry_draws_another_reply_to_the_same_message(talk):
    result = talk("hi", "/temperature 20", "/retry", "/retry", options=["--json"])
    messages = json.loads(result.out)["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "hi" and messages[1]["content"] != "hello you"


def test_clear_forgets_all_but_the_system(talk):
    result = talk("hi", "/clear", "bye", options=["--json", "--system", "be"])
    messages = json.loads(result.out)["messages"]
    assert [m["content"] for m in messages[:2]] == ["be", "bye"]
    assert len(messages) == 3


def test_a_saved_conversation_can_be_trained_on(talk):
    result = talk("hi", "/save out.jsonl", "bye", "/save out.jsonl")
    assert result.err.splitlines()[1:] == [
        "added 2 messages to out.jsonl", "added 4 messages to out.jsonl",
    ]  # fmt: skip
    assert nanochat.read_documents("out.jsonl") == [
        "User: hi\nAssistant: hello you",
        "User: hi\nAssistant: hello you\nUser: bye\nAssistant: see you",
    ]
    Path("cut.jsonl").write_bytes(Path("out.jsonl").read_bytes().removesuffix(b"\n"))
    talk("bye", "/save cut.jsonl")
    assert nanochat.read_documents("cut.jsonl") == [
        *nanochat.read_documents("out.jsonl"), "User: bye\nAssistant: see you",
    ]  # fmt: skip
    refused = talk("hi", "/save no/out.jsonl")
    assert refused.err.splitlines()[-1] == (
        "error: /save cannot write no/out.jsonl: No such file or directory"
    )


def test_help_lists_the_commands(talk):
    lines = talk("/help").err.splitlines()[1:]
    assert [line.split()[0] for line in lines[:7]] == [
        "/temperature", "/top-k", "/retry", "/clear", "/save", "/help", "/exit",
    ]  # fmt: skip


# --------------------------------------------------------------------------------------- completion


def test_a_run_of_plain_text_continues_what_is_written(talk, talker):
    result = talk("ab", options=["--max-new-tokens=6"], run="plain")
    path = nanochat.load(talker / "plain").checkpoint
    assert result.err == (
        f"{path} was not trained on conversations: it continues each text that you write; for"
        " replies, train on conversations with --documents chat\n"
    )
    text = nanochat.load(talker / "plain").generate("ab", max_new_tokens=6, temperature=0)
    assert result.out == f"{text.removeprefix('ab')}\n"


def test_replies_and_a_system_need_a_run_on_conversations(talk, talker):
    model = nanochat.load(talker / "plain")
    with pytest.raises(nanochat.NanochatError) as caught:
        model.chat([{"role": "user", "content": "ab"}])
    assert str(caught.value) == (
        f"{model.checkpoint} was not trained on conversations; train on some with --documents chat,"
        " or use completions"
    )
    result = talk(options=["--system=x"], run="plain")
    assert result.err.splitlines()[-1] == (
        "error: system needs a run that was trained on conversations, got"
        f" {model.checkpoint}; leave it out"
    )


def test_a_system_that_cannot_be_read_is_refused_before_the_first_message(talk):
    for system, message in nonempty({
        "be" * 30: "the conversation has 66 tokens with those of its roles, and the context window"
        " leaves 48; shorten the message",
        "QQ": "message: unknown token 'Q' at position 0; use characters of the training corpus, or"
        " train with tokenizer byte",
    }.items()):  # fmt: skip
        result = talk("hi", options=["--system", system])
        assert (result.code, result.out, result.err) == (2, "", f"error: system: {message}\n")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", "messages must be a list of messages, got 'hi'; remove the record"),
        (None, "messages must be a list of messages, got None; remove the record"),
        ({"role": "user"}, "messages must be a list of messages, got {'role': 'user'}; remove the"
         " record"),
        ([], "messages must have at least one message, got []"),
        (["hi"], "message 1 of messages must be an object, got 'hi'"),
    ],
)  # fmt: skip
def test_python_refuses_messages_of_another_type(talker, messages, message):
    with pytest.raises(CorpusError) as caught:
        nanochat.load(talker / "run").chat(messages)
    assert str(caught.value) == f"chat: {message}"


# ------------------------------------------------------------------------------ interrupts, a terminal


@pytest.mark.parametrize("said", ["he", ""])
def test_an_interrupt_stops_the_reply_and_keeps_what_was_said(talker, monkeypatch, said):
    """As on a terminal, without one."""

    def interrupted(*arguments, **options):
        yield from said
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "reply", interrupted)
    monkeypatch.setattr(module._Talk, "messages", lambda self: iter(["hi"]))
    start = module._Talk.__init__

    def for_people(self, *arguments):
        start(self, *arguments)
        self.is_for_people = True

    monkeypatch.setattr(module._Talk, "__init__", for_people)
    turns = module.chat(ChatConfig(run=str(talker / "run")))
    assert turns == ([("user", "hi"), ("assistant", "he")] if said else [])


def test_an_interrupt_of_a_retry_keeps_the_reply_before(talker, monkeypatch):
    pieces = [iter(["ok"]), None]

    def replies(*arguments, **options):
        found = pieces.pop(0)
        if found is None:
            raise KeyboardInterrupt
        yield from found

    def messages(self):
        self.is_for_people = True
        yield "hi"
        yield self._retry("")

    monkeypatch.setattr(module, "reply", replies)
    monkeypatch.setattr(module._Talk, "messages", messages)
    turns = module.chat(ChatConfig(run=str(talker / "run")))
    assert turns == [("user", "hi"), ("assistant", "ok")]
    assert pieces == []


def test_an_empty_reply_is_told(talk, monkeypatch):
    monkeypatch.setattr(module, "reply", lambda *arguments, **options: iter([""]))
    result = talk("hi")
    assert result.out == "\n"
    assert result.err.splitlines()[1:] == ["the reply is empty; /retry draws another"]


class OnATerminal:
    """A chat whose three standard files are a pseudo terminal."""

    def __init__(self, *words):
        import pty  # POSIX only

        self.parent, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanochat", "chat", *words], stdin=child, stdout=child,
            stderr=child, start_new_session=True, preexec_fn=lambda: _take_terminal(child),
            env={**os.environ, "TERM": "dumb", "COLUMNS": "120"},
        )  # fmt: skip
        os.close(child)
        self.seen = ""

    def until(self, text, count=1):
        assert self.sees(text, count, 120), self.seen

    def sees(self, text, count, seconds):
        deadline = time.monotonic() + seconds
        while self.seen.count(text) < count and time.monotonic() < deadline:
            if not select.select([self.parent], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self.parent, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            self.seen += piece.decode().replace("\r\n", "\n")
        return self.seen.count(text) >= count

    def write(self, text):
        os.write(self.parent, text.encode())

    def interrupt(self):
        """Press Ctrl-C at a prompt. Python misses one that arrives just before it waits for a key."""
        for _ in range(10):
            self.write("\x03")
            if self.sees("Ctrl-C again, or Ctrl-D, leaves\n> ", 1, 5):
                return
        raise AssertionError(self.seen)

    def interrupt_until_the_end(self):
        self.interrupt()
        for _ in range(10):
            self.write("\x03")
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                continue
            break
        return self.end()

    def end(self):
        code = self.process.wait(timeout=60)
        os.close(self.parent)
        return code


def _take_terminal(child):
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell, in which these tests run, may ignore it
    fcntl.ioctl(child, termios.TIOCSCTTY, 0)


def test_a_terminal_asks_answers_warns_and_leaves(talker):
    chat = OnATerminal(str(talker / "run"), *GREEDY)
    chat.until("Ctrl-D leaves\n> ")
    chat.write("hi\n")
    chat.until("hello you\n> ")
    chat.write("QQ\n")
    chat.until("warning: message: unknown token 'Q'")
    chat.until("> ", 3)
    chat.write("/nothing\n")
    chat.until("warning: unknown command /nothing")
    chat.write("bye\\\n")
    chat.until("\n. ")
    assert chat.interrupt_until_the_end() == 0
    assert "Traceback" not in chat.seen


def test_ctrl_c_drops_a_message_that_is_being_written(talker):
    chat = OnATerminal(str(talker / "run"), *GREEDY)
    chat.until("> ")
    chat.write('"""\n')
    chat.until("\n. ")
    chat.write("QQ\n")
    chat.until("\n. ", 2)
    chat.interrupt()
    assert chat.process.poll() is None
    chat.write("hi\n")
    chat.until("hello you\n> ")
    chat.write("\x04")
    assert chat.end() == 0


def test_ctrl_c_stops_a_reply_and_more_of_them_leave(talker):
    # A model of plain text goes on until it is stopped.
    chat = OnATerminal(str(talker / "plain"), "--max-new-tokens=10000000", "--temperature=0")
    chat.until("> ")
    chat.write("ab\n")
    chat.until("abab", 3)
    chat.write("\x03")
    chat.until("> ", 2)
    assert chat.process.poll() is None
    assert chat.interrupt_until_the_end() == 0
    assert "Traceback" not in chat.seen


def test_ctrl_d_leaves(talker):
    chat = OnATerminal(str(talker / "run"))
    chat.until("> ")
    chat.write("\x04")
    assert chat.end() == 0


def test_an_interrupt_ends_a_pipe(talker):
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", "chat", str(talker / "run")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell, in which these tests may run, may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr.readline().startswith("talking with ")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, "Traceback" in err) == ("", False)
    assert process.returncode in (130, -signal.SIGINT)
