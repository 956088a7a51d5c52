"""Help pages: the options of a command with the defaults of the preset that applies.

Imports rich, so the command line imports this file only for a help page.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from rich.console import Console
from rich_argparse import RichHelpFormatter

from nanochat.config.flags import (
    HELP_FLAGS,
    Parser,
    command_options,
    command_parser,
    front_parser,
    read_flags,
)
from nanochat.config.options import TrainConfig, options_of, preset_defaults, resolve_preset
from nanochat.config.sources import gather_options
from nanochat.errors import NanochatError
from nanochat.system.streams import write_result

__all__ = ["command_page", "front_page", "show"]

NARROWEST, WIDEST = 40, 100  # columns


def _capitalized(name: str) -> str:
    return name[:1].upper() + name[1:]


class _Formatter(RichHelpFormatter):
    """Read no markup in square brackets, and keep the case of group names."""

    group_name_formatter: ClassVar[Callable[[str], str]] = _capitalized
    help_markup = text_markup = False

    def _rich_format_action(self, action: argparse.Action) -> Iterator[Any]:
        lines = super()._rich_format_action(action)
        if isinstance(action, argparse._SubParsersAction):
            next(lines)  # an empty heading above the commands
        for header, help in lines:
            if header.cell_len <= self._width or ", " not in header.plain:
                yield header, help
                continue
            # `--long-name, --no-long-name` takes two lines of a narrow terminal.
            cut = header.plain.index(", ") + 1
            yield header[:cut], None
            rest = header[cut + 1 :]
            rest.pad_left(self._current_indent)
            yield rest, help


def front_page() -> Parser:
    """Return the parser whose help lists the commands."""
    return front_parser(with_options=False)


def command_page(command: str, words: Sequence[str], environment: Mapping[str, str]) -> Parser:
    """Return the parser whose help shows the options that apply with the other words."""
    known = command_options(command)
    try:
        flags = read_flags(command, [word for word in words if word not in HELP_FLAGS])
        file = flags.pop("config", None)
        flags = {name: value for name, value in flags.items() if name in known}
        given = gather_options(known, flags, environment, file)
        preset, defaults = _of_preset(command, given)
    except NanochatError:  # a page about options must not fail on a wrong one
        given = {}
        preset, defaults = _of_preset(command, given)
    parser = command_parser(command, defaults, show_all="--help-all" in words)
    if preset:
        parser.description = f"{parser.description} The defaults are those of preset {preset}."
        if command == "train" and given.get("preset", "auto") == "auto" and preset != "bigram":
            parser.description += " Preset auto chooses by the text, which this page does not read."
    return parser


def _of_preset(command: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of the preset that applies to a training command, and its defaults."""
    if command not in ("train", "ablate"):
        return "", {}
    training = {name: given[name] for name in options_of(TrainConfig) if name in given}
    if command == "ablate" and not given.get("vary"):
        training.setdefault("model_kind", "bigram")  # the grid without --vary
    preset = resolve_preset(training)[1]
    defaults = preset_defaults(preset, training)
    if command == "ablate":
        defaults["num_samples"] = 0
    for name in ("mode", "preset"):
        del defaults[name]
    return preset, {name: defaults[name] for name in command_options(command) if name in defaults}


def show(parser: Parser) -> None:
    """Print a parser's help, as wide as the terminal."""
    columns = shutil.get_terminal_size().columns
    width = min(max(columns, NARROWEST), WIDEST)
    usage = f"Usage: {parser.usage}".replace("%(prog)s", parser.prog)
    if parser.usage and len(usage) > width:
        parser.usage = parser.usage.replace(" [", "\n    [", 1)
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(width=width, file=io.StringIO(), force_terminal=is_terminal)
    formatter: Any = partial(_Formatter, width=width, max_help_position=30, console=console)
    parser.formatter_class = formatter
    write_result(parser.format_help().rstrip("\n") + "\n")
