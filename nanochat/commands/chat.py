"""`nanochat chat`: a conversation with trained weights, line by line.

Owns what is read, the commands that begin with a slash, and what is printed. The tokens of a
conversation are in data/conversations.py, the room for a reply in sampling/replies.py.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from nanochat.config.option import closest, config_or_default, options_of, shown
from nanochat.config.options import ChatConfig
from nanochat.data.conversations import Turn
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.errors import (
    CheckpointError,
    ConfigError,
    LogitsError,
    NanochatError,
    PromptTooLong,
    TokenizerError,
)
from nanochat.output.terminal import SILENT, Terminal
from nanochat.runs.load import TrainedModel, load_trained, read_checkpoint
from nanochat.sampling.generate import prompt_tokens, sampling_settings, stream
from nanochat.sampling.replies import reply, reply_prompt
from nanochat.system.json_text import strict_json
from nanochat.system.wording import counted

__all__ = ["chat"]

_ASK, _MORE = "> ", ". "
_QUOTES = '"""'
_HELP = (
    "/temperature X  draw with this temperature; 0: always the most likely token",
    "/top-k N        draw from the N most likely tokens; 0: all",
    "/retry          another reply to the last message",
    "/clear          forget the conversation",
    "/save FILE      add the conversation to a .jsonl file, which `nanochat train` reads",
    "/help           this list",
    "/exit           leave; so does Ctrl-D",
    "/temperature and /top-k without a value show it. A space before a slash makes it a message.",
    'A line that ends in a backslash goes on in the next one; so does all between lines of """.',
    "Ctrl-C stops a reply, or drops what you have typed; a second one leaves.",
)


def chat(
    config: ChatConfig | Mapping[str, Any] | None = None, *, terminal: Terminal = SILENT
) -> list[Turn]:
    """Talk with a model until the input ends, and return the turns of the conversation.

    Without a terminal, each line of standard input is a message, and its reply goes to stdout.
    Raises CheckpointError, and without a terminal the errors of a message.
    """
    config = config_or_default(config, ChatConfig)
    checkpoint, trained_config, skipped = read_checkpoint(config.checkpoint, config.run)
    for reason in skipped:
        terminal.warn(reason)
    trained = load_trained(config, checkpoint, trained_config)
    talk = _Talk(trained, config, terminal)
    talk.greet()
    for text in talk.messages():
        try:
            talk.answer(text)
        except LogitsError as error:
            raise CheckpointError(
                f"{error}: the weights of {checkpoint.path} overflow; use another checkpoint"
            ) from None
        except NanochatError as error:
            if not talk.is_for_people:
                raise
            terminal.warn(str(error))
        except KeyboardInterrupt:
            if not talk.is_for_people:
                raise
    roles = [{"role": role, "content": text} for role, text in talk.turns]
    terminal.json_result({"messages": roles})
    return talk.turns


class _Talk:
    """A conversation, and the options that change in it."""

    def __init__(self, trained: TrainedModel, config: ChatConfig, terminal: Terminal) -> None:
        self._trained, self._config, self._terminal = trained, config, terminal
        self._settings = sampling_settings(config)
        self._mixture = trained.mixture
        tokenizer = trained.tokenizer
        self._chats = tokenizer if isinstance(tokenizer, ChatTokenizer) else None
        self.is_for_people = terminal.is_for_people and sys.stdin is not None and sys.stdin.isatty()
        self._first: list[Turn] = [("system", config.system)] if config.system else []
        self.turns = list(self._first)
        self._before_retry: list[Turn] | None = None  # with the reply that is drawn again
        self._drawn = 0  # replies so far; the number of a reply selects its random numbers
        self._dropped = 0
        self._lines = 0  # read so far
        if self._chats is None and config.system:
            raise ConfigError(
                f"system needs a run that was trained on conversations, got"
                f" {trained.checkpoint.path}; leave it out"
            )
        if self._chats is not None and config.system:
            before, most = [*self._first, ("user", "")], self._settings.max_new_tokens
            try:
                reply_prompt(self._chats, before, trained.config.block_size, most)
            except (PromptTooLong, TokenizerError) as error:
                raise ConfigError(f"system: {error}") from None

    def greet(self) -> None:
        path, window = self._trained.checkpoint.path, self._trained.config.block_size
        if self._chats is None:
            self._terminal.note(
                f"{path} was not trained on conversations: it continues each text that you write;"
                " for replies, train on conversations with --documents chat"
            )
        else:
            self._terminal.note(f"talking with {path}, context window {counted(window, 'token')}")
        if self.is_for_people:
            self._terminal.note("/help lists the commands; Ctrl-D leaves")

    # ----------------------------------------------------------------------------------- reading

    def messages(self) -> Iterator[str]:
        """Carry out the commands of the user and yield the messages, until the input ends."""
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # `_line` refuses such bytes
        if self.is_for_people:
            with suppress(ImportError):
                import readline  # noqa: F401  # line editing and history for input()
        was_interrupted = False
        while True:
            try:
                text = self._message()
                was_interrupted = False
                if text.strip():
                    yield text
            except EOFError:
                if self.is_for_people:
                    self._terminal.result("")
                return
            except NanochatError as error:
                if not self.is_for_people:
                    raise
                self._terminal.warn(str(error))
            except KeyboardInterrupt:
                if not self.is_for_people:
                    raise
                self._terminal.result("")
                if was_interrupted:
                    return
                was_interrupted = True  # the first one may have been meant for a reply
                self._terminal.note("Ctrl-C again, or Ctrl-D, leaves")

    def _message(self) -> str:
        """Return a message of one or more lines, which a command may ask to answer again; an empty
        one after other commands. Raises EOFError, and ConfigError for a wrong command."""
        line = self._line(_ASK)
        if line.strip() == _QUOTES:
            lines = list(iter(lambda: self._line(_MORE), _QUOTES))
            return "\n".join(lines)
        if line.startswith("/"):
            return self._command(line) or ""
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self._line(_MORE)
        return line

    def _line(self, prompt: str) -> str:
        if self.is_for_people:
            line = input(prompt)
        else:
            line = sys.stdin.readline() if sys.stdin is not None else ""
            if not line:
                raise EOFError
        self._lines += 1
        if self._lines == 1:
            line = line.removeprefix("\ufeff")  # some programs begin a text so
        undecoded = next((c for c in line if "\udc80" <= c <= "\udcff"), None)
        if undecoded is not None:
            raise ConfigError(
                f"line {self._lines} of standard input must be text in the encoding"
                f" {sys.stdin.encoding}, got the byte 0x{ord(undecoded) - 0xDC00:02x}; convert it,"
                " as with iconv"
            )
        return line.removesuffix("\n").removesuffix("\r")

    # ---------------------------------------------------------------------------------- answering

    def answer(self, text: str) -> None:
        """Write the reply to a message, or the continuation of a text."""
        if self._chats is None:
            self._continue(text)
            return
        before, self._before_retry = self._before_retry or list(self.turns), None
        self.turns.append(("user", text.strip()))
        try:
            said = self._reply(self._chats)
        except (PromptTooLong, TokenizerError, KeyboardInterrupt):
            self.turns = before  # it cannot be answered, so later replies do not read it
            raise
        self.turns.append(("assistant", said.strip()))

    def _reply(self, tokenizer: ChatTokenizer) -> str:
        block_size, most = self._trained.config.block_size, self._settings.max_new_tokens
        prompt = reply_prompt(tokenizer, self.turns, block_size, most)
        if prompt.dropped > self._dropped:
            self._terminal.note(
                f"the context window of {counted(block_size, 'token')} is full; left out: the"
                f" oldest {counted(prompt.dropped, 'message')}"
            )
        self._dropped = prompt.dropped
        self._drawn += 1
        return self._write(
            reply(self._mixture, tokenizer, prompt, self._settings, number=self._drawn - 1)
        )

    def _continue(self, text: str) -> None:
        context = prompt_tokens(
            self._trained.tokenizer, text, self._trained.checkpoint.data["start"],
            self._trained.longest_prompt,
        )  # fmt: skip
        self.turns = [("user", text)]
        said = self._write(
            stream(
                self._mixture, self._trained.tokenizer, context, self._settings, start="",
                first_row=self._drawn,
            )
        )  # fmt: skip
        self._drawn += 1
        self.turns.append(("assistant", said))

    def _write(self, pieces: Iterator[str]) -> str:
        """Write a text while it is drawn, up to an interrupt, and return it."""
        said = ""
        try:
            for piece in pieces:
                if self._chats is not None and not said:
                    piece = piece.lstrip()
                said += piece
                self._terminal.result(piece, end="")
        except KeyboardInterrupt:
            if not self.is_for_people:
                raise
            self._terminal.result("")
            if not said:
                raise  # there is nothing to keep
            return said
        self._terminal.result("")
        if not said.strip():
            self._terminal.note("the reply is empty; /retry draws another")
        return said

    # ----------------------------------------------------------------------------------- commands

    def _command(self, line: str) -> str | None:
        """Carry out a command; return the message that it asks to answer again, if any."""
        name, _, value = line[1:].strip().partition(" ")
        known: dict[str, Callable[[str], str | None]] = {
            "temperature": lambda value: self._set("temperature", value),
            "top-k": lambda value: self._set("top_k", value),
            "retry": self._retry,
            "clear": self._clear,
            "save": self._save,
            "help": self._show_help,
            "exit": self._exit,
        }
        if name not in known:
            commands = [f"/{each}" for each in known]
            near = closest(f"/{name}", commands) or f"; the commands are {', '.join(commands)}"
            raise ConfigError(
                f"unknown command {shown('/' + name)}{near}; put a space before the slash to send"
                " it as a message"
            )
        if value.strip() and name not in ("temperature", "top-k", "save"):
            raise ConfigError(f"/{name} takes no value, got {shown(value.strip())}; leave it out")
        return known[name](value.strip())

    def _set(self, name: str, value: str) -> None:
        command = name.replace("_", "-")
        if value:
            parsed = options_of(ChatConfig)[name].parse(f"/{command}", value)
            self._settings = dataclasses.replace(self._settings, **{name: parsed})
        now = getattr(self._settings, name)
        self._terminal.note(f"{command} {f'{now:g}' if isinstance(now, float) else now}")

    def _exit(self, value: str) -> None:
        raise EOFError

    def _retry(self, value: str) -> str:
        if not self.turns or self.turns[-1][0] != "assistant":
            raise ConfigError("/retry needs a reply before it; write a message first")
        self._before_retry = list(self.turns)
        self.turns.pop()
        return self.turns.pop()[1]

    def _clear(self, value: str) -> None:
        self.turns, self._dropped = list(self._first), 0
        self._terminal.note("the conversation is forgotten")

    def _save(self, value: str) -> None:
        if not value.lower().endswith(".jsonl"):
            raise ConfigError(f"/save needs a file that ends in .jsonl, got {shown(value)}")
        if not any(role == "assistant" for role, _ in self.turns):
            raise ConfigError("/save needs a conversation; write a message first")
        messages = [{"role": role, "content": text} for role, text in self.turns]
        try:
            with open(os.path.expanduser(value), "ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # the last line is not ended
                file.write(f"{strict_json({'messages': messages})}\n".encode())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"/save cannot write {shown(value)}: {reason}") from error
        self._terminal.note(f"added {counted(len(messages), 'message')} to {value}")

    def _show_help(self, value: str) -> None:
        show = self._terminal.result if self.is_for_people else self._terminal.note
        for line in _HELP:
            show(line)
