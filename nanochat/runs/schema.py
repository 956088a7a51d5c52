"""What each JSON file of a checkpoint must hold: exact keys and types, bounded values.

A checkpoint may come from another person, so a file is refused unless it could have been written
by `runs/checkpoint.py`. Owns the shape of the records; what several files must agree on is checked
where they are loaded. Imports no NumPy, because `nanochat runs` must start at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from nanochat.config.option import Option, shown
from nanochat.config.options import TrainConfig, budget_seconds, options_of
from nanochat.errors import ConfigError
from nanochat.model.changes import MOST_CHANGES, MOST_ROWS, NAME
from nanochat.system.json_text import parse_json

__all__ = [
    "ADDED",
    "BEST",
    "CONFIG",
    "DATA",
    "MANIFEST",
    "NOT_SAVED",
    "OBJECT",
    "TOKENIZER",
    "TRAINER",
    "parse_record",
    "vocab_size_of",
]

# Checks a value and raises ValueError, in words that begin with the name of the value.
Check = Callable[[str, Any], None]

MOST_COUNT = 1 << 53  # of steps, tokens and bytes; a float holds each of them
MOST_FLOAT = 1e300  # sums of two of them stay finite
MOST_TEXT = 1 << 12  # characters of a name or a path
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _refuse(name: str, rule: str, value: Any) -> ValueError:
    """Return the error for a value; one that takes long to print is named by its type."""
    if type(value) not in (str, int, float, bool, type(None)):
        value = f"a JSON {'object' if type(value) is dict else 'list'}"
    return ValueError(f"{name} must {rule}, got {'null' if value is None else shown(value)}")


# -------------------------------------------------------------------------------------- the checks


def whole(low: int = 0, high: int = MOST_COUNT) -> Check:
    """Check a whole number between two bounds."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _refuse(name, f"be a whole number between {low} and {high}", value)

    return check


def number(low: float = -MOST_FLOAT, high: float = MOST_FLOAT) -> Check:
    """Check a finite number between two bounds."""

    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float) or not low <= value <= high:
            raise _refuse(name, f"be a number between {low:g} and {high:g}", value)

    return check


def boolean(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise _refuse(name, "be true or false", value)


def text(most: int = MOST_TEXT) -> Check:
    """Check a text of at most `most` characters."""

    def check(name: str, value: Any) -> None:
        if type(value) is not str or len(value) > most:
            raise _refuse(name, f"be a text of at most {most:,} characters", value)

    return check


def one_of(*choices: Any) -> Check:
    """Check that a value is one of the choices, of the same type."""

    def check(name: str, value: Any) -> None:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise _refuse(name, f"be {' or '.join(map(shown, choices))}", value)

    return check


def sha256(name: str, value: Any) -> None:
    if type(value) is not str or not _SHA256.fullmatch(value):
        raise _refuse(name, "be a SHA-256 of 64 hexadecimal digits", value)


def optional(inner: Check) -> Check:
    """Check a value that may be null."""
    return lambda name, value: None if value is None else inner(name, value)


def items(inner: Check, least: int, most: int) -> Check:
    """Check a list of values."""

    def check(name: str, value: Any) -> None:
        if type(value) is not list or not least <= len(value) <= most:
            raise _refuse(name, f"be a list of {least} to {most:,} items", value)
        for item in value:
            inner(f"each item of {name}", item)

    return check


def record(required: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """Check an object that has all required keys, perhaps some others, and no more."""
    known = {**required, **(others or {})}

    def check(name: str, value: Any) -> None:
        _object(name, value)
        for key in required:
            if key not in value:
                raise ValueError(f"{name} must have {key}, got none")
        for key, each in value.items():
            if key not in known:
                raise ValueError(f"{name} must not have {shown(key)}")
            known[key](f"{key} of {name}", each)

    return check


# -------------------------------------------------------------------------------------- the files


def _object(name: str, value: Any) -> None:
    if type(value) is not dict:
        raise _refuse(name, "be a JSON object", value)


def _manifest_files(name: str, value: Any) -> None:
    _object(name, value)
    entry = record({"sha256": sha256, "size": whole()})
    for key, each in value.items():
        entry(f"{shown(key)} of {name}", each)


def _budget(name: str, value: Any) -> None:
    """Check the state of training.deadline.Deadline."""
    plan = record(
        {"step_s": number(0), "pause_s": number(0), "eval_every": whole(), "after_s": number(0)},
        {"scores_all": boolean, "most_steps": optional(whole(1))},
    )
    record({"time_budget": text(), "spent_s": number(), "plan": plan})(name, value)
    try:
        budget_seconds(value["time_budget"])
    except ConfigError as error:
        raise ValueError(f"{name}: {error}") from None


def _trainer(name: str, value: Any) -> None:
    """Check a model.state.TrainerState and the share; older files lack some fields."""
    share = record({"scale": number(-1e6, 1e6), "offset": number(-1e6, 1e6)})
    record(
        {
            "step": whole(), "last_losses": items(number(), 0, 50), "tokens": whole(),
            "elapsed_s": number(0), "metrics_length": whole(),
        },
        {
            "best_step": optional(whole()), "best_loss": optional(number()), "misses": whole(),
            "interval_loss": number(), "interval_steps": whole(), "budget": optional(_budget),
            "processes": optional(whole(1)), "share": share, "extra": record({}),
        },
    )(name, value)  # fmt: skip
    for key in ("best_step", "interval_steps"):
        if (value.get(key) or 0) > value["step"]:
            rule = f"be at most the step {value['step']}"
            raise _refuse(f"{key} of {name}", rule, value[key])


def _tokenizer(name: str, value: Any) -> None:
    kind = value.get("kind") if type(value) is dict else None
    if type(kind) is not str or kind not in _TOKENIZERS:
        raise ValueError(
            f"{name} must be {{kind: byte}}, {{kind: char, characters: …}} or {{kind: bpe, …}}"
        )
    _TOKENIZERS[kind](name, value)


_SPECIAL = {"special": items(text(), 0, 16)}  # of a run on conversations
_TOKENIZERS: Mapping[str, Check] = {
    "byte": record({"kind": text()}, _SPECIAL),
    "char": record({"kind": text(), "characters": text(0x110000)}, _SPECIAL),
    # A text of one repeated character has tokens of many megabytes.
    "bpe": record(
        {"kind": text(), "pattern": text(), "merged": items(text(1 << 26), 0, 1 << 17)}, _SPECIAL
    ),
}


def vocab_size_of(tokenizer: Mapping[str, Any]) -> int:
    """Return the number of tokens of a saved tokenizer that was checked, without building it."""
    special = len(tokenizer.get("special", ()))
    if tokenizer["kind"] == "char":
        return 1 + len(tokenizer["characters"]) + special
    return 257 + len(tokenizer.get("merged", ())) + special


def _of_option(option: Option) -> Check:
    """Check the JSON type of an option's value; TrainConfig checks the rest."""
    kinds: Mapping[type, Check] = {
        str: text(1 << 16), int: whole(-1), float: number(), bool: boolean,
        tuple: items(text(1 << 16), 0, 1 << 16),
    }  # fmt: skip
    inner = kinds[option.kind]
    return optional(inner) if option.optional else inner


# Options that belong to the command which began the run, not to the run: the values that are saved.
NOT_SAVED: Mapping[str, Any] = {"resume": False, "final_on_all": None, "time_budget": None}
# Options of the model, the text and the training that were added later, so files of version 1 may
# lack them, with the value that such a file means. Options of the output may always be absent.
ADDED: Mapping[str, Any] = {"output_rmsnorm": False, "bpe_pattern": "nanochat", "portable": False}


def _config(name: str, value: Any) -> None:
    options = options_of(TrainConfig)
    known = {key: _of_option(each) for key, each in options.items()}
    known |= {key: one_of(value) for key, value in NOT_SAVED.items()}
    for key in value:
        if key not in known:
            raise ValueError(f"{shown(key)} is not an option")
    required = {
        key: check for key, check in known.items() if key not in ADDED and not options[key].output
    }
    record(required, known)(name, value)


def _changes(name: str, value: Any) -> None:
    """Check a model.parameters.Changes."""
    _object(name, value)
    shape = optional(items(whole(1, MOST_ROWS), 2, 2))
    if len(value) > MOST_CHANGES:
        raise _refuse(name, f"have at most {MOST_CHANGES:,} matrices", len(value))
    for key, each in value.items():
        if not NAME.fullmatch(key):
            raise ValueError(f"{name} must not have {shown(key)}")
        shape(f"{key} of {name}", each)


_ORIGIN = record({"path": text(), "step": whole(), "weights_sha256": sha256})

MANIFEST = record({"format": text(), "version": whole(), "files": _manifest_files})
BEST = record({
    "format": text(), "version": whole(), "step": whole(), "val_loss": optional(number()),
    "weights_sha256": sha256,
})  # fmt: skip
TRAINER: Check = _trainer
TOKENIZER: Check = _tokenizer
CONFIG: Check = _config
OBJECT: Check = _object  # before CONFIG, whose keys may have earlier names
DATA = record(
    {
        "split_sha256": sha256, "val_source": one_of("val", "train", "none"),
        "train_documents": whole(), "train_tokens": whole(), "val_documents": whole(),
        "val_tokens": whole(), "start": items(whole(0, 1 << 31), 1, 16),
    },
    {
        "ngram_sha256": sha256, "initialized_from": _ORIGIN, "text_seal": sha256,
        "model_file": record({"sha256": sha256, "parameters": _changes}),
    },
)  # fmt: skip


def parse_record(content: bytes, name: str, check: Check) -> dict[str, Any]:
    """Return the record in a file. Raises ValueError that begins with the name of the file."""
    try:
        parsed = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    check(name, parsed)
    result: dict[str, Any] = parsed
    return result
