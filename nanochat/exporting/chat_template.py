"""The order of a conversation's tokens as a template of other programs.

A program renders its template with the messages as values, and splits the result into tokens, where
it reads the name of a special token as this token. So a message must not spell such a name: each
template writes it differently, and what becomes of that is up to the writer of the format.
"""

from __future__ import annotations

from nanochat.data.conversations import ROLES
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.tokenizer import BOS, Tokenizer
from nanochat.exporting.byte_level import BOS_TEXT, special_names

__all__ = ["OLLAMA_TEMPLATE", "SPLIT_NAME", "end_tokens", "jinja_template", "with_split_names"]

# Every name begins with these characters. A text has NUL between them, which keeps it a text.
SPLIT_NAME = ("<|", "<\0|")

_JINJA = """\
{{- '%(bos)s' -}}
{%%- for message in messages -%%}
{%%- if message['role'] not in [%(roles)s] -%%}
{{- raise_exception('role must be system, user or assistant, got ' ~ message['role']) -}}
{%%- endif -%%}
{%%- if message['content'] is not string -%%}
{{- raise_exception('content must be a string') -}}
{%%- endif -%%}
{{- '<|' ~ message['role'] ~ '|>' ~ (message['content'] | trim%(filters)s) ~ '<|end|>' -}}
{%%- endfor -%%}
{%%- if add_generation_prompt -%%}
{{- '<|assistant|>' -}}
{%%- endif -%%}
"""

# In Go, for a Modelfile. A reply that has begun is continued: it has no end.
OLLAMA_TEMPLATE = """\
{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 -}}
<|{{ .Role }}|>{{ .Content }}
{{- if not (and $last (eq .Role "assistant")) }}<|end|>
{{- if $last }}<|assistant|>{{ end }}{{ end }}{{ end }}"""


def jinja_template(filters: str) -> str:
    """Return the template of a conversation in Jinja, with filters for the text of a message."""
    roles = ", ".join(map(repr, ROLES))
    return _JINJA % {"bos": BOS_TEXT, "roles": roles, "filters": filters}


def with_split_names(tokenizer: Tokenizer) -> str:
    """Return filters that write a space into each name of a special token in a text."""
    names = [BOS_TEXT, *special_names(tokenizer)]
    return "".join(f" | replace('{name}', '< {name[1:]}')" for name in names)


def end_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that end a text, or a reply of a model of conversations; its end first."""
    if not isinstance(tokenizer, ChatTokenizer):
        return [BOS]
    return [tokenizer.special("end"), BOS, *map(tokenizer.special, ROLES)]
