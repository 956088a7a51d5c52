"""One option: its type, default, help text and check, and the one function that parses its values.

Flags, environment variables, TOML files and Python all pass their values through `Option.parse`, so
all of them accept the same values and refuse the others in the same words.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nanochat.errors import ConfigError

__all__ = [
    "AUTO",
    "UNSET",
    "Option",
    "as_text",
    "assign",
    "closest",
    "config_or_default",
    "defaults_of",
    "option",
    "options_of",
    "parse_given",
    "shown",
]

UNSET: Any = type("_Unset", (), {"__repr__": lambda _: "<from preset>"})()

AUTO = -1  # of whole numbers that are chosen once the text is known

MAX_SHOWN = 60  # characters of a value that a message repeats

# ASCII only: int() and float() also accept other digits and underscores. Compiled on first use.
_INTEGER = r"[+-]?[0-9]+"
_DECIMAL = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Everything about one option except its name."""

    kind: type  # str, int, float, bool or tuple
    default: Any
    help: str
    group: str
    choices: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    low_open: bool = False  # `low` itself is refused
    common: bool = False  # listed by --help, not only by --help-all
    output: bool = False  # may differ between a run and its resume
    optional: bool = False  # None is a value
    path: bool = False  # accepts os.PathLike; shells complete file names
    whole: bool = False  # of kind tuple: one text is one element, not a list of words
    auto: bool = False  # of numbers: `auto` is AUTO
    also: tuple[str, ...] = ()  # other names that the command line accepts

    def parse(self, name: str, value: Any) -> Any:
        """Return `value` as this option's type.

        Accepts text for every type, `os.PathLike` for paths, and numbers of other types, such as
        NumPy's, Decimal and Fraction, whose value the option can have. Raises ConfigError with the
        option's name, its rule and the value.
        """
        parsed = self._converted(_without_numpy(value))
        if not self.accepts(parsed):
            raise ConfigError(self.refusal(name, value))
        return parsed if parsed is None else self.kind(parsed)

    def _converted(self, value: Any) -> Any:
        """Convert text, paths and numbers; return everything else as it is."""
        if self.path and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if self.path and self.kind is tuple and isinstance(value, (tuple, list)):
            value = tuple(os.fspath(v) if isinstance(v, os.PathLike) else v for v in value)
        if self.kind is tuple and isinstance(value, (tuple, list)):
            return tuple(str(v) if isinstance(v, str) else v for v in value)  # of NumPy
        if self.kind in (int, float) and isinstance(value, numbers.Number):
            return _number(self.kind, value)
        if not isinstance(value, str) or self.kind is str:
            return value
        if self.kind is tuple:
            return (value,) if self.whole else tuple(value.split())
        if self.kind is bool:
            return _BOOLEANS.get(value.lower(), value)
        if self.auto and value.strip() == "auto":
            return AUTO
        pattern = _INTEGER if self.kind is int else _DECIMAL
        try:
            return self.kind(value) if re.fullmatch(pattern, value.strip()) else value
        except ValueError:  # more digits than Python converts
            return value

    def accepts(self, value: Any) -> bool:
        """Return whether `value`, which has this option's type already, is allowed."""
        if value is None:
            return self.optional
        if self.kind is str:
            if not _is_text(value) or (self.path and not value):
                return False
            return self.choices is None or value in self.choices
        if self.kind is tuple:
            is_list = isinstance(value, (tuple, list)) and all(map(_is_text, value))
            if self.path and is_list and not all(value):
                return False
            if self.whole:  # an empty list only where it is the default
                return is_list and all(value) and bool(value or self.default == ())
            return is_list
        if self.kind is bool:
            return isinstance(value, bool)
        kind: Any = numbers.Integral if self.kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.auto and value == AUTO:
            return True
        if self.low is not None and (value <= self.low if self.low_open else value < self.low):
            return False
        return self.high is None or value <= self.high

    def text(self, value: Any) -> str:
        """Return a value as this option is written."""
        return "auto" if self.auto and value == AUTO else as_text(value)

    def refusal(self, name: str, value: Any) -> str:
        """Return the message for a refused value: name, rule, value, and a suggestion."""
        value = _without_numpy(value)
        if self.whole and isinstance(value, (tuple, list)) and value:
            value = next((v for v in value if not _is_text(v)), value)  # the element that is wrong
        near = closest(value, self.choices) if self.choices and isinstance(value, str) else ""
        return f"{name} must be {self._rule(value)}, got {shown(value)}{near}"

    def _rule(self, value: Any) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is str:
            if self.path and value == "":
                return "a path"
            return "Unicode text without NUL" if isinstance(value, str) else "text"
        if self.whole:
            is_text = isinstance(value, str)
            if is_text and value:
                return "Unicode text without NUL"
            return "text or a list of texts, none of them empty"
        if self.kind is tuple and self.path:
            return "a list of paths, none of them empty"
        if self.kind is tuple:
            return "a list of texts like 'n_layer=1,2'"
        if self.kind is bool:
            return "true or false"
        auto = "auto or " if self.auto else ""
        return auto + self._range(self._converted(value)) + _digits_rule(self.kind, value)

    def _range(self, value: Any) -> str:
        if self.low is None or self.high is None:
            return "finite"
        if self.kind is int:
            return f"a whole number between {int(self.low)} and {int(self.high)}"
        if self.low_open:
            # Most upper bounds only catch typing errors; the rule names one only if it was broken.
            too_large = isinstance(value, (int, float)) and self.high < value < math.inf
            return f"finite and > {self.low:g}" + (f" and <= {self.high:g}" if too_large else "")
        return f"finite and between {self.low:g} and {self.high:g}"


def _digits_rule(kind: type, text: Any) -> str:
    """Name the digits if Python itself would have read the refused text as a number."""
    if not isinstance(text, str) or (text.isascii() and "_" not in text):
        return ""
    try:
        kind(text)
    except ValueError:
        return ""
    return ", written in the digits 0 to 9"


def _without_numpy(value: Any) -> Any:
    """Return a NumPy scalar or 0-d array as Python's value, which every file format can write."""
    numpy = sys.modules.get("numpy")  # a NumPy value exists only after its import
    if numpy is None:
        return value
    is_single = type(value) is numpy.ndarray and not value.ndim
    return value.item() if is_single or isinstance(value, numpy.generic) else value


def _number(kind: Any, value: Any) -> Any:
    """Return a number as int or float; the number itself if it has no such value, or is one.

    A value is converted before its range is checked: Fraction(1, 10**400) is above 0 and its float
    is not. A float is never an int, and a bool is neither.
    """
    is_float = isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational)
    if isinstance(value, (int, float)) or (kind is int and is_float):
        return value
    try:
        if kind is float:
            return float(value)
        return int(value) if abs(value) < 1 << 64 and value == int(value) else value
    except (ArithmeticError, TypeError, ValueError):  # NaN, infinity, complex
        return value


def _is_text(value: Any) -> bool:
    """Return whether a path, a config file and a terminal can all hold this text."""
    return (
        isinstance(value, str)
        and "\0" not in value
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )


# ---------------------------------------------------------------------------------------- messages


def as_text(value: Any) -> str:
    """Return a value as options are written: `true` and `false` for booleans."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Any) -> str:
    """Return a value for a message: on one line, printable, and shortened if it is long."""
    try:
        text = as_text(value)
    except ValueError:  # more digits than Python prints
        return "a number with thousands of digits"
    except Exception:  # a value of the caller, whose text cannot be made
        return f"a value of type {type(value).__name__}"
    if not text:
        return "''"
    text = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def closest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for a misspelt name, or nothing."""
    if len(name) > MAX_SHOWN:
        return ""
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


# ------------------------------------------------------------------------ the options of a config


def option(default: Any, help: str, *, group: str, **details: Any) -> Any:
    """Declare a dataclass field whose default is the preset's, or `default` if it has none."""
    details.setdefault("kind", type(default))
    declared = Option(default=default, help=help, group=group, **details)
    return field(default=UNSET, metadata={"option": declared})


def options_of(config_class: type) -> dict[str, Option]:
    """Return the options of a config class by field name, in order."""
    fields = dataclasses.fields(config_class)
    return {f.name: f.metadata["option"] for f in fields if "option" in f.metadata}


def parse_given(config: Any) -> dict[str, Any]:
    """Return the values that a config was constructed with, parsed. Raises ConfigError."""
    values = {name: getattr(config, name) for name in options_of(type(config))}
    return {
        name: declared.parse(name, values[name])
        for name, declared in options_of(type(config)).items()
        if values[name] is not UNSET
    }


def defaults_of(config_class: type, preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default of every option: the preset's, or the option's if it has none."""
    return {
        name: preset.get(name, declared.default)
        for name, declared in options_of(config_class).items()
    }


def assign(config: Any, values: Mapping[str, Any]) -> None:
    """Set the fields of a frozen config that is being constructed."""
    for name, value in values.items():
        object.__setattr__(config, name, value)


_Config = TypeVar("_Config")


def config_or_default(config: _Config | Mapping[str, Any] | None, kind: type[_Config]) -> _Config:
    """Return the config, or one of these options, or without any that of the defaults.

    Raises ConfigError for anything else.
    """
    if config is None:
        return kind()
    if isinstance(config, kind):
        return config
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"config must be a {kind.__name__} or a dict of its options, got"
            f" {type(config).__name__}; use {kind.__name__}(name=value, …)"
        )
    known = options_of(kind)
    for name in config:
        if name not in known:
            near = closest(name, known) if isinstance(name, str) else ""
            raise ConfigError(f"{shown(name)} is not an option of {kind.__name__}{near}")
    return kind(**config)
