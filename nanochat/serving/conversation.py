"""The tokens of a conversation, for a run that was trained on conversations."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.data.conversations import prompt_of
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.errors import UnsupportedOption
from nanochat.runs.load import TrainedModel
from nanochat.serving.requests import Message

__all__ = ["conversation_tokens", "takes_conversations"]


def takes_conversations(trained: TrainedModel) -> bool:
    """Return whether a run was trained on conversations."""
    return isinstance(trained.tokenizer, ChatTokenizer)


def conversation_tokens(trained: TrainedModel, messages: Sequence[Message]) -> list[int]:
    """Return the tokens that the assistant's next message follows.

    Raises UnsupportedOption for a run that was not trained on conversations, and PromptTooLong.
    """
    if not isinstance(trained.tokenizer, ChatTokenizer):
        raise UnsupportedOption("this run was not trained on conversations; use completions")
    turns = [(message.role, message.content) for message in messages]
    tokens, _ = prompt_of(trained.tokenizer, turns, trained.config.block_size, drop=False)
    return tokens
