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
    'A line that ends in a backslash goes on in the next one; so does all between lines of """.',
    "Ctrl-C stops a reply. Ctrl-D, or Ctrl-C while you are asked, leaves.",
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
            terminal.result("")
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
        self._drawn = 0  # replies so far; the number of a reply selects its random numbers
        self._dropped = 0
        if self._chats is None and config.system:
            raise ConfigError(
                f"system needs a run that was trained on conversations, got"
                f" {trained.checkpoint.path}; leave it out"
            )

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
            sys.stdin.reconfigure(errors="surrogateescape")  # the tokenizer refuses the message
        if self.is_for_people:
            with suppress(ImportError):
                import readline  # noqa: F401  # line editing and history for input()
        while True:
            try:
                text = self._message()
            except EOFError:
                if self.is_for_people:
                    self._terminal.result("")
                return
            except KeyboardInterrupt:
                if not self.is_for_people:
                    raise
                self._terminal.result("")
                return
            if text.startswith("/"):
                try:
                    text = self._command(text) or ""
                except NanochatError as error:
                    if not self.is_for_people:
                        raise
                    self._terminal.warn(str(error))
                    continue
            if text.strip():
                yield text

    def _message(self) -> str:
        """Return a message of one or more lines. Raises EOFError."""
        line = self._line(_ASK)
        if line.strip() == _QUOTES:
            lines = list(iter(lambda: self._line(_MORE), _QUOTES))
            return "\n".join(lines)
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self._line(_MORE)
        return line

    def _line(self, prompt: str) -> str:
        if self.is_for_people:
            return input(prompt)
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")

    # ---------------------------------------------------------------------------------- answering

    def answer(self, text: str) -> None:
        """Write the reply to a message, or the continuation of a text."""
        if self._chats is None:
            self._continue(text)
            return
        self.turns.append(("user", text.strip()))
        try:
            said = self._reply(self._chats)
        except (PromptTooLong, TokenizerError, KeyboardInterrupt):
            self.turns.pop()  # it cannot be answered, so later replies do not read it
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
        }
        if name not in known:
            commands = [f"/{each}" for each in known]
            near = closest(f"/{name}", commands) or f"; the commands are {', '.join(commands)}"
            raise ConfigError(f"unknown command {shown('/' + name)}{near}")
        return known[name](value.strip())

    def _set(self, name: str, value: str) -> None:
        parsed = options_of(ChatConfig)[name].parse(name, value)
        self._settings = dataclasses.replace(self._settings, **{name: parsed})
        self._terminal.note(f"{name.replace('_', '-')} {parsed:g}")

    def _retry(self, value: str) -> str:
        if not self.turns or self.turns[-1][0] != "assistant":
            raise ConfigError("/retry needs a reply before it; write a message first")
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
            with open(os.path.expanduser(value), "a", encoding="utf-8") as file:
                file.write(strict_json({"messages": messages}) + "\n")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"/save cannot write {shown(value)}: {reason}") from error
        self._terminal.note(f"added {counted(len(messages), 'message')} to {value}")

    def _show_help(self, value: str) -> None:
        show = self._terminal.result if self.is_for_people else self._terminal.note
        for line in _HELP:
            show(line)
