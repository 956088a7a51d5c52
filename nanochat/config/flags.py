"""The command line's argument parser, built from the option table.

Reads words into text by option name. `Option.parse` turns the text into values, so argparse itself
checks no types and no choices. Help pages are in help_page.py, completion scripts in completion.py.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from nanochat.config.option import Option, closest, options_of, shown
from nanochat.config.options import (
    RENAMED,
    RUNS_DIR,
    AblateConfig,
    ChatConfig,
    EvalConfig,
    ExportConfig,
    InfoConfig,
    InspectConfig,
    RunsCompareConfig,
    RunsConfig,
    RunsPruneConfig,
    RunsRemoveConfig,
    RunsShowConfig,
    SampleConfig,
    ServeConfig,
    TrainConfig,
)
from nanochat.errors import ConfigError

__all__ = [
    "COMMANDS",
    "HELP_FLAGS",
    "PROGRAM",
    "Command",
    "Parser",
    "command_options",
    "command_parser",
    "flag_of",
    "front_parser",
    "read_flags",
    "read_front_flags",
    "split_command",
]

PROGRAM = "nanochat"
HELP_FLAGS = ("-h", "--help", "--help-all")

_GENERAL = "General"
_HELP = "Train, sample, evaluate and ablate small language models from a text corpus."


class Command(NamedTuple):
    """One command: a line about it, the class of its options, and its positional argument."""

    summary: str
    config: type | None = None
    argument: str = ""  # the option that words without dashes give
    metavar: str = ""  # of the argument


# A name of two words is a subcommand.
COMMANDS = {
    "train": Command("Train a model on a text and write samples.", TrainConfig, "data", "PATH"),
    "sample": Command("Write text with a trained model.", SampleConfig, "run", "RUN"),
    "chat": Command("Talk with a trained model.", ChatConfig, "run", "RUN"),
    "eval": Command(
        "Evaluate a trained model on a text: loss and bits per byte.", EvalConfig, "run", "RUN"
    ),
    "inspect": Command(
        "Show every number of a trained model on a text, with its gradient.",
        InspectConfig,
        "run",
        "RUN",
    ),
    "export": Command(
        "Write a trained network for another program, and verify it there.",
        ExportConfig,
        "run",
        "RUN",
    ),
    "serve": Command(
        "Serve a trained model to clients of OpenAI's API.", ServeConfig, "run", "RUN"
    ),
    "ablate": Command("Train a grid of variants over seeds and compare them.", AblateConfig),
    "runs": Command("List the runs; show, compare, remove or prune them.", RunsConfig),
    "runs show": Command(
        "Show a run: its options, result and checkpoints.", RunsShowConfig, "run", "RUN"
    ),
    "runs compare": Command(
        "Compare runs: options that differ, results and curves.", RunsCompareConfig, "runs", "RUN"
    ),
    "runs remove": Command("Remove runs from the disk.", RunsRemoveConfig, "runs", "RUN"),
    "runs prune": Command("Remove old checkpoints of runs.", RunsPruneConfig, "runs", "RUN"),
    "info": Command(
        "Show versions, machine and native modules, for a bug report.", InfoConfig, "run", "RUN"
    ),
}


def split_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command that the words begin with, of one or two words, and the words after it.

    The command is empty if the words begin with none. Raises ConfigError for a wrong subcommand.
    """
    command = words[0] if words else ""
    if command not in COMMANDS:
        return "", list(words)
    subcommands = _subcommands(command)
    if not subcommands or len(words) == 1 or words[1].startswith("-"):
        return command, list(words[1:])
    if words[1] not in subcommands:
        near = closest(words[1], subcommands) or f"; the commands are {', '.join(subcommands)}"
        raise ConfigError(f"unknown command {command} {shown(words[1])}{near}")
    return f"{command} {words[1]}", list(words[2:])


def _subcommands(command: str) -> dict[str, Command]:
    """Return the subcommands of a command by their second word."""
    start = f"{command} "
    return {name.removeprefix(start): COMMANDS[name] for name in COMMANDS if name.startswith(start)}


def command_options(command: str) -> dict[str, Option]:
    """Return the options of a command; ablate also takes the training options of its runs."""
    config = COMMANDS[command].config
    known = options_of(config) if config is not None else {}
    if command == "ablate":
        runs = options_of(TrainConfig)
        for name in (
            "resume", "init_from", "extend_vocabulary", "final_on_all", "rank_timeout", "show_mask",
        ):  # fmt: skip
            del runs[name]
        known = {**known, **{name: runs[name] for name in runs if name not in known}}
    return known


def flag_of(name: str) -> str:
    """Return the command-line spelling of an option's name."""
    return "--" + name.replace("_", "-")


# ------------------------------------------------------------------------------- reading the words


def read_flags(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the given flags of a command by option name: text, booleans, lists of text.

    Raises ConfigError. `config`, `quiet` and `json` are among the names.
    """
    options = command_options(command)
    parser = command_parser(command, listing=False)
    namespace, rest = parser.parse_known_args(_normalized(words, options))
    given = vars(namespace)
    _refuse_unknown(command, options, rest)
    paths = [*given.pop("paths", []), *(word for word in rest if word != "--")]
    flags = {name: _with_dashes(value) for name, value in given.items()}
    if paths:
        _take_argument(command, options, flags, paths)
    return flags


def read_front_flags(words: Sequence[str]) -> dict[str, Any]:
    """Return the given flags that precede any command. Raises ConfigError."""
    if words and not words[0].startswith("-"):
        commands = [name for name in COMMANDS if " " not in name]
        near = closest(words[0], commands) or f"; the commands are {', '.join(commands)}"
        raise ConfigError(f"unknown command {shown(words[0])}{near}")
    _check_front_words(words)
    namespace, rest = front_parser(with_options=False).parse_known_args(words)
    if rest:
        raise ConfigError(f"unexpected {shown(rest[0])} after {shown(words[0])}; leave it out")
    return vars(namespace)


_FRONT_FLAGS = {"--version": 1, "--print-completion": 2, "--install-completion": 2}  # words each


def _check_front_words(words: Sequence[str]) -> None:
    """Raise ConfigError for an option of a command without the command, and for words to spare."""
    first, equals, _ = words[0].partition("=") if words else ("--help", "", "")
    if first in HELP_FLAGS:
        return
    if first not in _FRONT_FLAGS:
        name = first.lstrip("-").replace("-", "_").removeprefix("no_")
        of_command = name in ("quiet", "json", "config") or any(
            name in command_options(command) for command in COMMANDS
        )
        near = "; put a command first" if of_command else closest(first, [*_FRONT_FLAGS, "--help"])
        raise ConfigError(f"unknown option {shown(first)} of {PROGRAM}{near}")
    spare = words[1 if equals else _FRONT_FLAGS[first] :]
    if spare:
        raise ConfigError(f"unexpected {shown(spare[0])} after {first}; leave it out")


def _normalized(words: Sequence[str], options: Mapping[str, Option]) -> Iterator[str]:
    """Respell what argparse does not read: `--n_embd 4`, `--lr -1`, `--qk-norm=false`.

    argparse takes only some negative numbers for values, and no value for a boolean.
    """
    known = {
        flag_of(spelling): (name, option)
        for name, option in options.items()
        for spelling in (name, *option.also)
    }
    left = list(reversed(words))
    while left:
        word = left.pop()
        if word == "--":
            yield from (word, *reversed(left))
            return
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        name, option = known.get(flag, ("", None))
        if option is None:
            yield flag + equals + value
        elif option.kind is bool:
            if not equals and left and _is_value_of_flag(left[-1]):
                equals, value = "=", left.pop()
            yield flag if not equals or option.parse(name, value) else _negated(flag)
        elif not equals and left and _is_negative_number(left[-1]):
            yield f"{flag}={left.pop()}"
        else:
            yield flag + equals + value


# Words that no one names a text or a run by, unless one has the name.
_TRUTH_VALUES = ("yes", "no", "on", "off", "none", "null", "nan", "inf")


def _is_value_of_flag(word: str) -> bool:
    """Return whether a word after a boolean flag is its value, which may be wrong, and not a path
    or a run."""
    if word.lower() in ("true", "false"):
        return True
    is_value = word.lower() in _TRUTH_VALUES or bool(re.fullmatch(r"[+-]?[0-9.]+", word))
    return is_value and not os.path.exists(word) and not os.path.exists(f"{RUNS_DIR}/{word}")


def _is_negative_number(word: str) -> bool:
    # re compiles the pattern on first use, which most commands never reach.
    return word.startswith("-") and bool(re.match(r"-(\.?[0-9]|(?i:inf|nan))", word))


def _negated(flag: str) -> str:
    return "--no-" + flag.removeprefix("--")


def _refuse_unknown(command: str, options: Mapping[str, Option], rest: Sequence[str]) -> None:
    for word in rest:
        if word.startswith("-") and word.strip("-"):
            flag = word.partition("=")[0]
            raise ConfigError(
                f"unknown option {shown(flag)} of {PROGRAM} {command}{_hint(flag, options)}"
            )


def _hint(flag: str, options: Mapping[str, Option]) -> str:
    """Name the commands that have an unknown option, or the most similar option."""
    renamed = RENAMED.get(flag.removeprefix("--").replace("-", "_"), "")
    if renamed in options:
        return f"; use {flag_of(renamed)}"
    owners = [name for name in COMMANDS if flag in _all_flags(command_options(name))]
    if owners:
        return f"; it is an option of {' and '.join(owners)}"
    general = ["--quiet", "--json", *HELP_FLAGS, *(["--config"] if options else [])]
    return closest(flag, [*_all_flags(options), *general])


def _with_dashes(value: Any) -> Any:
    """Return a flag's value with the text `--` where argparse has removed it: it made [] of it."""
    if value == []:
        return "--"
    return ["--" if each == [] else each for each in value] if isinstance(value, list) else value


def _all_flags(options: Mapping[str, Option]) -> list[str]:
    return [flag for name, option in options.items() for flag in _spellings(name, option)]


def _spellings(name: str, option: Option) -> list[str]:
    flag = flag_of(name)
    also = [flag_of(other) for other in option.also]
    return [flag, _negated(flag)] if option.kind is bool else [flag, *also]


def _take_argument(
    command: str, options: Mapping[str, Option], flags: dict[str, Any], words: Sequence[str]
) -> None:
    """Take the words without dashes as the option that is the command's argument."""
    name, metavar = COMMANDS[command].argument, COMMANDS[command].metavar
    if not name:
        raise ConfigError(
            f"{PROGRAM} {command} takes options only, got {shown(words[0])}"
            f"{_subcommand_hint(command, words)}"
        )
    if len(words) > 1 and options[name].kind is not tuple:
        way_out = "; give a folder to train on several files" if command == "train" else ""
        raise ConfigError(
            f"{command} takes one {metavar.lower()}, got {shown(' '.join(words))}{way_out}"
        )
    if name in flags:
        given = flags[name] if isinstance(flags[name], str) else " ".join(flags[name])
        raise ConfigError(
            f"the {'text' if name == 'data' else 'run'} must be given once, got"
            f" {shown(' '.join(words))} and {flag_of(name)} {shown(given)}; leave one out"
        )
    flags[name] = list(words) if options[name].kind is tuple else words[0]


def _subcommand_hint(command: str, words: Sequence[str]) -> str:
    """Say how to write a subcommand that follows an option."""
    if words[0] not in _subcommands(command):
        return ""
    return f"; put the options after it: {PROGRAM} {command} {words[0]} …"


# ------------------------------------------------------------------------------ building the parser


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ConfigError instead of leaving the process."""

    def __init__(self, **details: Any) -> None:
        self.commands: dict[str, argparse.ArgumentParser] = {}
        # A given width spares argparse the import of shutil and a look at the terminal.
        plain = partial(argparse.HelpFormatter, width=80)
        super().__init__(
            formatter_class=plain, add_help=False, allow_abbrev=False,
            argument_default=argparse.SUPPRESS, **details,
        )  # fmt: skip

    def error(self, message: str) -> Any:
        option, _, problem = message.removeprefix("argument ").partition(": ")
        if problem.startswith("expected"):
            problem = f"needs a value, as in {option}=VALUE"
        elif problem.startswith("ignored"):
            problem = "takes no value"
        raise ConfigError(f"option {option} {problem}")


class _Once(argparse.Action):
    """Store one value; refuse a repeated option."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        if self.dest in namespace:
            raise ConfigError(f"option {self.option_strings[0]} must be given once")
        given = option_string == self.option_strings[0] if self.nargs == 0 else values
        setattr(namespace, self.dest, given)


def front_parser(*, with_options: bool) -> Parser:
    """Return the parser of the words before a command; `with_options`: and of every command."""
    parser = Parser(prog=PROGRAM, description=_HELP, usage="%(prog)s COMMAND [OPTIONS]")
    parser.epilog = "`%(prog)s COMMAND --help` shows the options of a command."
    commands = parser.add_subparsers(title="Commands", metavar="")
    for name, command in COMMANDS.items():
        if " " in name:
            continue
        parser.commands[name] = commands.add_parser(name, help=command.summary)
        if with_options:
            _fill(parser.commands[name], name, {}, show_all=True)
            parser.commands |= _add_subcommands(parser.commands[name], name, with_options=True)
    general = parser.add_argument_group(_GENERAL)
    _add_help(general, with_all=False)
    general.add_argument("--version", action=_Once, nargs=0, help="Show the version and exit.")
    general.add_argument(
        "--print-completion", action=_Once, metavar="SHELL",
        help="Print the completion script for bash, zsh, fish or tcsh and exit.",
    )  # fmt: skip
    general.add_argument(
        "--install-completion", action=_Once, metavar="SHELL", nargs="?", const="",
        help="Install the completion script for bash, zsh or fish and exit; default: the shell"
        " in $SHELL.",
    )  # fmt: skip
    return parser


def command_parser(
    command: str,
    defaults: Mapping[str, Any] | None = None,  # for its help page; None: those of the options
    *,
    show_all: bool = False,
    listing: bool = True,
) -> Parser:
    """Return the parser of one command; `listing`: for a page that lists its subcommands too."""
    parser = Parser(prog=f"{PROGRAM} {command}")
    if listing:
        _add_subcommands(parser, command, with_options=False)
    _fill(parser, command, defaults or {}, show_all=show_all)
    return parser


def _add_subcommands(
    parser: argparse.ArgumentParser, command: str, *, with_options: bool
) -> dict[str, argparse.ArgumentParser]:
    """Add the parsers of a command's subcommands and return them by full name."""
    added: dict[str, argparse.ArgumentParser] = {}
    if not _subcommands(command):
        return added
    commands = parser.add_subparsers(title="Commands", metavar="")
    for word, declared in _subcommands(command).items():
        name = f"{command} {word}"
        added[name] = commands.add_parser(word, help=declared.summary)
        if with_options:
            _fill(added[name], name, {}, show_all=True)
    return added


def _fill(
    parser: argparse.ArgumentParser, command: str, defaults: Mapping[str, Any], *, show_all: bool
) -> None:
    """Add a command's options in their groups."""
    options = command_options(command)
    declared = COMMANDS[command]
    parser.description = declared.summary
    parser.usage = "%(prog)s [OPTIONS]" + _argument_usage(declared, options)
    if not show_all and not all(option.common for option in options.values()):
        parser.epilog = "`%(prog)s --help-all` shows every option."
    groups: dict[str, Any] = {}
    for name, option in options.items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        if name == declared.argument:
            groups[option.group].add_argument(
                "paths", nargs="*", metavar=declared.metavar,
                help=f"The same as {flag_of(name)} {declared.metavar}.",
            )  # fmt: skip
        shown_option = replace(option, default=defaults[name]) if name in defaults else option
        _add_option(groups[option.group], name, shown_option, visible=option.common or show_all)
    general = parser.add_argument_group(_GENERAL)
    if options:
        general.add_argument(
            "--config", action=_Once, metavar="FILE",
            help="TOML file of options; flags and NCLAB_* variables override it.",
        )  # fmt: skip
    general.add_argument("--quiet", action=_Once, nargs=0, help="Show no progress and no notes.")
    general.add_argument(
        "--json", action=_Once, nargs=0, help="Write one JSON object to stdout instead of text."
    )
    _add_help(general, with_all=bool(options))


def _argument_usage(declared: Command, options: Mapping[str, Option]) -> str:
    if not declared.argument:
        return ""
    many = "..." if options[declared.argument].kind is tuple else ""
    return f" [{declared.metavar}{many}]"


def _add_help(group: Any, *, with_all: bool) -> None:
    every = "Show every option and exit." if with_all else argparse.SUPPRESS
    group.add_argument("-h", "--help", action="store_true", help="Show this page and exit.")
    group.add_argument("--help-all", action="store_true", help=every)


def _add_option(group: Any, name: str, option: Option, *, visible: bool) -> None:
    flags = _spellings(name, option)
    text = _help_text(option) if visible else argparse.SUPPRESS
    if option.kind is bool:
        group.add_argument(*flags, dest=name, action=_Once, nargs=0, help=text)
    else:
        action: Any = "append" if option.kind is tuple else _Once
        group.add_argument(*flags, dest=name, action=action, metavar=_metavar(option), help=text)


def _metavar(option: Option) -> str:
    if option.choices:
        return "NAME"
    if option.path:
        return "PATH"
    return {int: "N", float: "X"}.get(option.kind, "TEXT")


def _help_text(option: Option) -> str:
    """Return an option's help with its choices and default, for argparse's %-formatting."""
    text = option.help
    if option.choices:
        text += f" [{', '.join(option.choices)}]"
    if option.default not in (None, "", ()):
        text += f" [default: {option.text(option.default)}]"
    return text.replace("%", "%%")
