"""Where option values come from: flags override NCLAB_* variables, which override a TOML file.

Returns only the values that were given. Defaults and presets belong to options/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat.config.given_file import read_given_file
from nanochat.config.option import shown
from nanochat.config.options import (
    RENAMED,
    AblateConfig,
    ChatConfig,
    EvalConfig,
    ExportConfig,
    InspectConfig,
    Option,
    RunsCompareConfig,
    RunsConfig,
    RunsPruneConfig,
    RunsRemoveConfig,
    RunsShowConfig,
    SampleConfig,
    ServeConfig,
    TrainConfig,
    closest,
    options_of,
    with_new_names,
)
from nanochat.errors import ConfigError
from nanochat.system.cache import CACHE_VARIABLE
from nanochat.system.wording import as_word, printable

__all__ = ["PREFIX", "gather_options", "parse_toml", "read_config_file"]

PREFIX = "NCLAB_"
# A config file may come from another person's run: these options must be given in another way too.
RUNS_CODE = frozenset({"model_file", "against_model_file"})
# Variables of the build (CMakeLists.txt), which may still be set in the shell that runs a command,
# those that choose a build of the kernels (native.py) and its instruction set, the one that checks
# compiled programs (csrc/scalar/program/graph/verify.hpp), and the cache.
_OTHER_NAMES = "AVX512 CUDA PYTHON CPP_TESTS FUZZ SANITIZE WERROR KERNELS SIMD VERIFY"
_OTHERS = frozenset(PREFIX + name for name in _OTHER_NAMES.split()) | {CACHE_VARIABLE}
_CONFIGS = (
    TrainConfig, SampleConfig, ChatConfig, EvalConfig, InspectConfig, ExportConfig, ServeConfig,
    AblateConfig, RunsConfig, RunsShowConfig, RunsCompareConfig, RunsRemoveConfig, RunsPruneConfig,
)  # fmt: skip


def gather_options(
    known: Mapping[str, Option],
    flags: Mapping[str, Any],  # by field name; None: not given
    environment: Mapping[str, str],
    config_file: str | None,
) -> dict[str, Any]:
    """Return the given options by field name, parsed. Raises ConfigError."""
    in_file = read_config_file(config_file, known) if config_file is not None else {}
    given = _from_environment(known, environment)
    for name, value in flags.items():
        if value is not None:
            given[name] = known[name].parse(name, value)
    for name, value in _code_of({n: v for n, v in in_file.items() if n not in given}):
        raise ConfigError(
            f"{name} {printable(value)} of config file {printable(str(config_file))} is code; if"
            f" you trust it, add --{name.replace('_', '-')} {as_word(value)}"
        )
    return {**in_file, **given}


def _code_of(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the options that name code to run, an ablation's too, and their values."""
    for name in sorted(RUNS_CODE & options.keys()):
        if options[name] is not None:
            yield name, options[name]
    for text in options.get("vary", ()):
        if text.partition("=")[0].strip() in RUNS_CODE:
            yield "vary", text


def _from_environment(
    known: Mapping[str, Option], environment: Mapping[str, str]
) -> dict[str, Any]:
    every = {PREFIX + name.upper() for config in _CONFIGS for name in options_of(config)}
    options = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in _OTHERS:
            continue
        if variable not in every:
            near = closest(variable, every | {CACHE_VARIABLE})
            raise ConfigError(
                f"environment variable {shown(variable)} does not name an option"
                f"{near or '; unset it'}"
            )
        name = variable.removeprefix(PREFIX).lower()
        if name in known:  # otherwise an option of another command
            source = f"environment variable {variable}"
            options[name] = _parse(known[name], name, environment[variable], source)
    return options


def read_config_file(path: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """Return the options in a TOML file of `option = value` lines, parsed. Raises ConfigError."""
    if not path:
        raise ConfigError("config must be the path of a TOML file, got ''; leave config out")
    name = printable(path)
    content = read_given_file("config", path, "a TOML file", "a file of options")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"config file {name} must be UTF-8, got byte 0x{content[error.start]:02x} at byte"
            f" {error.start}; save it as UTF-8"
        ) from error
    try:
        options = with_new_names(parse_toml(text))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise ConfigError(
            f"config file {name} must be TOML, a line such as steps = 100 per option, got an error:"
            f" {error}; correct the file"
        ) from error
    _refuse_unknown(name, options, known)
    if _is_record(path, options):
        options = {key: value for key, value in options.items() if key not in ("out", "resume")}
    return {
        key: _parse(known[key], key, value, f"config file {name}") for key, value in options.items()
    }


def _is_record(path: str, options: Mapping[str, Any]) -> bool:
    """Return whether the file is the saved config of a run of an older version, in its folder."""
    out = options.get("out")
    return isinstance(out, str) and Path(out).absolute() == Path(path).absolute().parent


def _parse(option: Option, name: str, value: Any, source: str) -> Any:
    """Parse a value; the message of a refusal names where the value came from."""
    try:
        return option.parse(name, value)
    except ConfigError as error:
        raise ConfigError(f"{error}, in {source}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text. Raises ValueError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _refuse_unknown(path: str, options: Mapping[str, Any], known: Mapping[str, Option]) -> None:
    for name, value in options.items():
        if name in known:
            continue
        if isinstance(value, dict):
            raise ConfigError(
                f"config file {path}: options must be outside of tables, got the table"
                f" {shown(name)}; write its options at the top of the file, without a table"
            )
        renamed = RENAMED.get(name)
        hint = f"; use {renamed}" if renamed in known else closest(name, known)
        raise ConfigError(
            f"config file {path}: {shown(name)} is not an option{hint or '; remove it'}"
        )
