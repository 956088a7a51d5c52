"""Conversations: what a record or a text says about who says what, and their tokens.

Owns the shapes of records, the text `User: … Assistant: …`, the order of the special tokens and
which tokens are targets. Leaves out reading (sources/records.py) and batches.

A conversation travels through the split as one text, in which NUL and a letter begin each message:
no text of a user contains NUL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.data.documents import Documents
from nanochat.data.special_tokens import SPECIAL_TOKENS, ChatTokenizer
from nanochat.data.texts import Texts
from nanochat.data.token_checks import smallest_type
from nanochat.data.tokenizer import BOS
from nanochat.errors import CorpusError, PromptTooLong, TokenizerError

__all__ = [
    "ROLES",
    "Conversations",
    "Turn",
    "as_text",
    "any_turns_of_messages",
    "encode_conversations",
    "first_questions",
    "is_conversation",
    "looks_like_conversations",
    "marked",
    "prompt_of",
    "turns_of_marked",
    "turns_of_messages",
    "turns_of_record",
    "turns_of_text",
    "turns_of_tokens",
]

Turn = tuple[str, str]  # role and text

ROLES = ("user", "assistant", "system")  # the first of SPECIAL_TOKENS
# The names of ShareGPT too.
_ROLE_OF = {
    "system": "system", "user": "user", "assistant": "assistant", "human": "user",
    "gpt": "assistant",
}  # fmt: skip
_KEYS = (("role", "from"), ("content", "value"))
_LISTS = ("messages", "conversations")
_INSTRUCTION = ("instruction", "output")
_NEEDS = "messages, conversations, or instruction and output"

# ------------------------------------------------------------------------------ records → turns


def is_conversation(record: Any) -> bool:
    """Return whether a record has one of the known shapes, whatever is in it."""
    if isinstance(record, list):
        return bool(record) and all(isinstance(each, Mapping) for each in record)
    if not isinstance(record, Mapping):
        return False
    has_list = any(isinstance(record.get(key), list) for key in _LISTS)
    return has_list or all(isinstance(record.get(key), str) for key in _INSTRUCTION)


def turns_of_record(
    record: Any,
    where: str,  # file and line, for messages
    column: str | None = None,  # that has the messages; None: by the shape
) -> list[Turn]:
    """Return the turns of a record: messages, ShareGPT or Alpaca. Raises CorpusError."""
    if isinstance(record, list):
        return turns_of_messages(record, where)
    if not isinstance(record, Mapping):
        raise CorpusError(f"{where} must be an object, got {record!r:.40}")
    key = column or next((key for key in _LISTS if key in record), None)
    if key is not None and key in record:
        turns = turns_of_messages(record[key], where, key)
    elif column is None and all(key in record for key in _INSTRUCTION):
        turns = _turns_of_instruction(record, where)
    else:
        listed = ", ".join(map(str, list(record)[:12])) or "no columns"
        raise CorpusError(f"{where} must have {column or _NEEDS}, got {listed}")
    system = record.get("system")
    if isinstance(system, str) and system.strip() and turns[0][0] != "system":
        turns.insert(0, ("system", _checked(system, f"{where}: system")))
    return turns


def turns_of_messages(messages: Any, where: str, column: str = "messages") -> list[Turn]:
    """Return the turns of a list of messages, each with role and content, or from and value.

    At least one is of the assistant. Raises CorpusError.
    """
    turns = any_turns_of_messages(messages, where, column)
    if all(role != "assistant" for role, _ in turns):
        roles = ", ".join(role for role, _ in turns[:4]) + (", …" if len(turns) > 4 else "")
        raise CorpusError(
            f"{where}: {column} must have a message of the assistant, got {roles}; remove the"
            " record"
        )
    return turns


def any_turns_of_messages(messages: Any, where: str, column: str = "messages") -> list[Turn]:
    """Return the turns of messages that may lack a reply, as a request has them."""
    if not isinstance(messages, list):
        raise CorpusError(
            f"{where}: {column} must be a list of messages, got {messages!r:.40}; remove the record"
        )
    if not messages:
        raise CorpusError(f"{where}: {column} must have at least one message, got []")
    return [
        _turn(message, f"{where}: message {number} of {column}")
        for number, message in enumerate(messages, 1)
    ]


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise CorpusError(f"{where} must be an object, got {message!r:.40}")
    role, content = (
        next((message[key] for key in keys if message.get(key) is not None), None) for keys in _KEYS
    )
    if not isinstance(role, str) or role not in _ROLE_OF:
        raise CorpusError(
            f"{where}: role must be system, user or assistant (in ShareGPT system, human or gpt),"
            f" got {role!r:.40}; rename the role or remove the record"
        )
    return _ROLE_OF[role], _checked(_joined(content), f"{where}: content")


def _joined(content: Any) -> Any:
    """Return the text of a content that is a list of text parts, as in requests."""
    if not isinstance(content, list) or not content:
        return content
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in content
    ]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else content


def _turns_of_instruction(record: Mapping[str, Any], where: str) -> list[Turn]:
    question = _checked(record["instruction"], f"{where}: instruction")
    given = record.get("input")
    if given is not None and _checked(given, f"{where}: input").strip():
        question = f"{question}\n\n{given}"
    return [("user", question), ("assistant", _checked(record["output"], f"{where}: output"))]


def _checked(text: Any, name: str) -> str:
    """Return a text without surrounding white space. Raises CorpusError for anything else."""
    if not isinstance(text, str):
        raise CorpusError(f"{name} must be a string, got {text!r:.40}; remove the record")
    if "\0" in text:
        raise CorpusError(f"{name} contains NUL; remove it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise CorpusError(f"{name} contains a lone surrogate; replace it")
    return text.strip()


# -------------------------------------------------------------------------------- text → turns

_LINE = re.compile(r"(System|User|Assistant):(?:[ \t]|$)")
_OPENS = ("system", "user")


def looks_like_conversations(text: str) -> bool:
    """Return whether a text begins as a conversation and has about as many replies as questions."""
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    counts = dict.fromkeys(ROLES, 0)
    for line in lines:
        found = _LINE.match(line)
        if found:
            counts[found[1].lower()] += 1
    begins = _LINE.match(first)
    if begins is None or begins[1] == "Assistant":
        return False
    fewer, more = sorted((counts["user"], counts["assistant"]))
    return fewer > 0 and more <= 2 * fewer


def turns_of_text(text: str, name: str) -> Iterator[list[Turn]]:
    """Yield the conversations of a text whose lines begin with `User:`, `Assistant:`, `System:`.

    A line without a role continues the message. After a reply, a blank line before `User:` or
    `System:` begins a new conversation. Raises CorpusError, which names the line.
    """
    turns: list[tuple[str, list[str]]] = []
    begun, was_blank = 1, True  # line of the first turn; whether the line before was blank
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        found = _LINE.match(line)
        if found is None:
            if turns:
                turns[-1][1].append(line)
            elif line.strip():
                raise CorpusError(
                    f"{name} line {number} must begin with User:, Assistant: or System:, got"
                    f" {line.strip()!r:.40}"
                )
        else:
            role = found[1].lower()
            if was_blank and role in _OPENS and turns and turns[-1][0] == "assistant":
                yield _complete(turns, f"{name} line {begun}")
                turns = []
            if not turns:
                begun = number
            turns.append((role, [line[found.end() :]]))
        was_blank = not line.strip()
    if turns:
        yield _complete(turns, f"{name} line {begun}")


def _complete(turns: Iterable[tuple[str, list[str]]], where: str) -> list[Turn]:
    found = [(role, _checked("\n".join(lines), where)) for role, lines in turns]
    if all(role != "assistant" for role, _ in found):
        raise CorpusError(f"{where}: a conversation must have a line Assistant:, got none")
    return found


def as_text(turns: Sequence[Turn]) -> str:
    """Return a conversation as lines that begin with the roles."""
    return "\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


# ----------------------------------------------------------------------------- turns as one text

_LETTERS = "".join(role[0] for role in ROLES)


def marked(turns: Sequence[Turn]) -> bytes:
    """Return a conversation as one text, from which `turns_of_marked` returns it."""
    return "".join(f"\0{role[0]}{text}" for role, text in turns).encode("utf-8")


def turns_of_marked(text: str) -> list[Turn]:
    """Return the turns of a text of `marked`."""
    return [(ROLES[_LETTERS.index(turn[0])], turn[1:]) for turn in text.split("\0")[1:]]


@dataclass(frozen=True, slots=True)
class Conversations:
    """The messages of many conversations, end to end in one buffer."""

    messages: Texts
    roles: NDArray[np.int64]  # (messages,) index in ROLES
    counts: NDArray[np.int64]  # (conversations,) messages of each

    @classmethod
    def of(cls, texts: Texts) -> Conversations:
        """Return the conversations of texts of `marked`, without a copy."""
        starts, ends, roles, counts = list[int](), list[int](), list[int](), list[int]()
        for (start, end), view in zip(texts.bounds(), texts.views(), strict=True):
            places = np.flatnonzero(np.frombuffer(view, np.uint8) == 0).tolist()
            counts.append(len(places))
            for place, following in pairwise([*places, end - start]):
                roles.append(_LETTERS.index(chr(view[place + 1])))
                starts.append(start + place + 2)
                ends.append(start + following)
        bounds = np.array(starts, np.int64), np.array(ends, np.int64)
        return cls(Texts(texts.raw, *bounds), np.array(roles, np.int64), np.array(counts, np.int64))


# --------------------------------------------------------------------------------- turns → tokens


def encode_conversations(
    tokenizer: ChatTokenizer, conversations: Conversations, name: str = ""
) -> Documents:
    """Return the conversations as documents. Of a message, the role's token comes first, then the
    text and the end; only the text and the end of the assistant are targets. Raises TokenizerError.
    """
    try:
        tokens, lengths = tokenizer.encode_all(conversations.messages)
    except TokenizerError as error:
        where = str(error).replace(" of document ", " of message ")
        raise TokenizerError(f"{name}: {where}" if name else where) from error
    sizes = lengths + 2
    ends = np.cumsum(sizes)  # (messages,)
    stream = np.empty(int(sizes.sum()), smallest_type(tokenizer.vocab_size))
    is_text = np.ones(len(stream), np.bool_)
    is_text[ends - sizes] = is_text[ends - 1] = False
    stream[is_text] = tokens
    stream[ends - sizes] = tokenizer.first_special + conversations.roles
    stream[ends - 1] = tokenizer.special("end")
    is_target = np.repeat(conversations.roles == ROLES.index("assistant"), sizes)
    is_target[ends - sizes] = False  # the role is given, not predicted
    firsts = np.cumsum(conversations.counts)
    offsets = np.concatenate([np.zeros(1, np.int64), ends])[np.concatenate([[0], firsts])]
    documents = Documents.of(stream, offsets)
    # A pair is named by its input. The target of a document's last pair is BOS.
    of_pairs = np.insert(is_target, offsets[1:], False)
    return Documents(documents.stream, documents.offsets, of_pairs)


def _tokens_of(tokenizer: ChatTokenizer, turns: Sequence[Turn]) -> list[list[int]]:
    end = tokenizer.special("end")
    return [
        [tokenizer.special(role), *tokenizer.encode(text).tolist(), end] for role, text in turns
    ]


def turns_of_tokens(tokenizer: ChatTokenizer, tokens: Sequence[int]) -> list[Turn]:
    """Return the turns of a conversation's tokens; text before the first role is left out."""
    turns: list[tuple[str, list[int]]] = []
    roles = {tokenizer.special(role): role for role in ROLES}
    for token in tokens:
        if token in roles:
            turns.append((roles[token], []))
        elif turns and token < tokenizer.first_special:
            turns[-1][1].append(token)
    return [(role, tokenizer.decode(text)) for role, text in turns]


def first_questions(
    tokenizer: ChatTokenizer,
    documents: Documents,
    most: int,  # conversations
    block_size: int,
) -> list[list[int]]:
    """Return the tokens up to the first reply of the first conversations, each with BOS.

    Of a question that does not fit, the end.
    """
    found = []
    begins = documents.offsets + np.arange(documents.count + 1)
    for first, last in pairwise(begins[: most + 1].tolist()):
        tokens = documents.stream[first:last].tolist()
        end = tokens.index(tokenizer.special("assistant")) + 1
        found.append(tokens[max(0, end - block_size) : end])
    return found


def prompt_of(
    tokenizer: ChatTokenizer,
    turns: Sequence[Turn],
    most: int,  # tokens of the prompt
    *,
    drop: bool = True,  # the oldest turns, if they do not fit; False: raise PromptTooLong
) -> tuple[list[int], int]:
    """Return the tokens after which the assistant replies, and how many turns were dropped.

    A system message at the beginning is kept. What is left begins with a message of the user.
    Raises PromptTooLong if the last message alone does not fit, and TokenizerError.
    """
    try:
        encoded = _tokens_of(tokenizer, turns)
    except TokenizerError as error:
        raise TokenizerError(f"message: {error}") from None
    kept = 1 if turns and turns[0][0] == "system" else 0
    first, fixed = kept, 2 + sum(map(len, encoded[:kept]))  # with BOS and the role of the reply
    while fixed + sum(map(len, encoded[first:])) > most:
        later = [i for i in range(first + 1, len(turns)) if turns[i][0] == "user"]
        if not later or not drop:
            length = fixed + sum(map(len, encoded[first:]))
            raise PromptTooLong(
                f"the conversation has {length} tokens with those of its roles, and the context"
                f" window leaves {most}; shorten the message"
            )
        first = later[0]
    tokens = [token for turn in (*encoded[:kept], *encoded[first:]) for token in turn]
    return [BOS, *tokens, tokenizer.special("assistant")], first - kept


assert SPECIAL_TOKENS[: len(ROLES)] == ROLES  # ids of roles are added to the first one
