"""One option: its type, default, help and check, and what is done with all options of a config."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat.errors import ConfigError

__all__ = ["UNSET", "Option", "check_options", "closest", "fill", "filled", "options_of", "option"]

UNSET: Any = type("_Unset", (), {"__repr__": lambda _: "<from preset>"})()


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is known of one option beside its name."""

    kind: type
    default: Any
    help: str
    group: str
    choices: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    common: bool = False
    output: bool = False  # may differ between a run and its resume
    optional: bool = False  # None is a value

    def refusal(self, name: str, value: Any) -> str:
        """The message for a value that is not accepted: name, rule, value, and a suggestion."""
        near = closest(value, self.choices) if self.choices and isinstance(value, str) else ""
        return f"{name} must be {self._rule(value)}, got {value}{near}"

    def _rule(self, value: Any) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is str:
            return "Unicode text without NUL" if isinstance(value, str) else "text"
        if self.kind is tuple:
            return "a list of texts like 'n_layer=1,2'"
        if self.kind is bool:
            return "true or false"
        if self.low is None or self.high is None:
            return "finite"
        if self.kind is int:
            return f"a whole number between {int(self.low)} and {int(self.high)}"
        if self.low_open:
            # Most upper bounds only catch slips; the rule names one where it is what was broken.
            too_large = isinstance(value, (int, float)) and self.high < value < math.inf
            return f"finite and > {self.low:g}" + (f" and <= {self.high:g}" if too_large else "")
        return f"finite and between {self.low:g} and {self.high:g}"

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if self.kind is str:
            return _is_text(value) and (self.choices is None or value in self.choices)
        if self.kind is tuple:
            return isinstance(value, (tuple, list)) and all(map(_is_text, value))
        if self.kind is bool:
            return isinstance(value, bool)
        kind: Any = numbers.Integral if self.kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.low is not None and (value <= self.low if self.low_open else value < self.low):
            return False
        return self.high is None or value <= self.high


def _is_text(value: Any) -> bool:
    """Text that a path, a config file and a terminal can all hold."""
    return (
        isinstance(value, str)
        and "\0" not in value
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )


def option(default: Any, help: str, *, group: str, **details: Any) -> Any:
    """A dataclass field whose default comes from the preset, then from `default`."""
    details.setdefault("kind", type(default))
    option = Option(default=default, help=help, group=group, **details)
    return field(default=UNSET, metadata={"option": option})


def options_of(config_class: type) -> dict[str, Option]:
    """The options of a config class, by field name, in order."""
    fields = dataclasses.fields(config_class)
    return {f.name: f.metadata["option"] for f in fields if "option" in f.metadata}


def closest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for a misspelt name, or nothing."""
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def check_options(config: Any) -> None:
    """Each value against its own option. Raises ConfigError with name, rule and value."""
    for name, option in options_of(type(config)).items():
        value = getattr(config, name)
        if not option.accepts(value):
            raise ConfigError(option.refusal(name, value))
        if option.kind in (int, float, tuple) and value is not None:
            # NumPy's numbers are accepted; what is kept is Python's, which every format can write.
            object.__setattr__(config, name, option.kind(value))


def filled(config: Any, preset: Mapping[str, Any]) -> dict[str, Any]:
    """Every option by name: as given, else the preset's value, else the option's default."""
    given = {name: getattr(config, name) for name in options_of(type(config))}
    return {
        name: preset.get(name, option.default) if given[name] is UNSET else given[name]
        for name, option in options_of(type(config)).items()
    }


def fill(config: Any, preset: Mapping[str, Any]) -> None:
    for name, value in filled(config, preset).items():
        object.__setattr__(config, name, value)
