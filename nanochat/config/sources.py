"""Options from text: flags over NCLAB_* variables over a TOML file, each checked by its option.

It gives a mapping of what was said; defaults and presets are config.py's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nanochat.config.options import (
    AblateConfig,
    EvalConfig,
    Option,
    SampleConfig,
    TrainConfig,
    closest,
    options_of,
)
from nanochat.errors import ConfigError

__all__ = ["PREFIX", "gather_options", "parse_text", "read_config_file"]

PREFIX = "NCLAB_"
# Variables of the build (CMakeLists.txt), which a shell may still hold when a command runs, and
# those that pick a build of the kernels (native.py) and its instruction set.
_BUILD = frozenset(
    PREFIX + name
    for name in ("CUDA", "PYTHON", "CPP_TESTS", "SANITIZE", "WERROR", "KERNELS", "SIMD")
)
_CONFIGS = (TrainConfig, SampleConfig, EvalConfig, AblateConfig)


def parse_text(name: str, text: str, option: Option) -> Any:
    """A value from a flag, variable or list. Raises ConfigError with name, rule and text."""
    value: Any = text
    if option.kind is tuple:
        value = tuple(text.split())
    elif option.kind is bool:
        value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    elif option.kind in (int, float):
        try:
            value = option.kind(text)
        except ValueError:
            value = text
    if not option.accepts(value):
        raise ConfigError(option.refusal(name, value))
    return value


def gather_options(
    known: Mapping[str, Option],
    flags: Mapping[str, Any],  # None: not given
    environment: Mapping[str, str],
    config_file: str | None,
) -> dict[str, Any]:
    """The options that were given, by field name. Raises ConfigError."""
    options = read_config_file(config_file, known) if config_file is not None else {}
    options.update(_from_environment(known, environment))
    for name, value in flags.items():
        if value is not None:
            options[name] = (
                parse_text(name, value, known[name]) if isinstance(value, str) else value
            )
    return options


def _from_environment(
    known: Mapping[str, Option], environment: Mapping[str, str]
) -> dict[str, Any]:
    every = {PREFIX + name.upper() for config in _CONFIGS for name in options_of(config)}
    options = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in _BUILD:
            continue
        if variable not in every:
            raise ConfigError(
                f"environment variable {variable} is no option{closest(variable, every)}"
            )
        name = variable.removeprefix(PREFIX).lower()
        if name not in known:
            continue  # an option of another command
        try:
            options[name] = parse_text(name, environment[variable], known[name])
        except ConfigError as error:
            raise ConfigError(f"{error}; it stands in {variable}") from None
    return options


def read_config_file(path: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """The options in a TOML file of `option = value` lines. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not UTF-8: byte {error.start}") from error
    try:
        options = _parse_toml(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError of either parser
        raise ConfigError(f"config file {path} is not TOML: {error}") from error
    _refuse_unknown(path, options, known)
    for name, value in options.items():
        if not known[name].accepts(value):
            raise ConfigError(f"{known[name].refusal(name, value)}; it stands in {path}")
    return options


def _parse_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _refuse_unknown(path: str, options: Iterable[str], known: Mapping[str, Option]) -> None:
    for name in options:
        if name not in known:
            raise ConfigError(f"config file {path}: {name} is no option{closest(name, known)}")
