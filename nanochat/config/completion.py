"""Shell completion scripts, generated from the parser by shtab, and where shells look for them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import shtab

from nanochat.config.flags import PROGRAM, command_options, front_parser
from nanochat.config.option import Option, closest, shown
from nanochat.errors import ConfigError, OutputError

__all__ = ["SHELLS", "completion_script", "install_completion"]

SHELLS = ("bash", "zsh", "fish", "tcsh")


def completion_script(shell: str) -> str:
    """Return the completion script for one of SHELLS. Raises ConfigError."""
    if shell not in SHELLS:
        raise ConfigError(
            f"shell must be one of {', '.join(SHELLS)}, got {shown(shell)}{closest(shell, SHELLS)}"
        )
    parser = front_parser(with_options=True)
    _complete_values(parser, {})
    for command, subparser in parser.commands.items():
        _complete_values(subparser, command_options(command))
    return shtab.complete(parser, shell)


def _complete_values(parser: argparse.ArgumentParser, options: Mapping[str, Option]) -> None:
    """Tell shtab the choices of each option, and which options take file names."""
    for action in parser._actions:
        option = options.get(action.dest)
        if option is not None and option.choices:
            action.choices = option.choices
        elif action.dest in ("print_completion", "install_completion"):
            action.choices = SHELLS
        elif action.dest in ("paths", "config") or (option is not None and option.path):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab


def install_completion(shell: str, environment: Mapping[str, str]) -> str:
    """Write a shell's script to the user's folder for it; return what to do next.

    An empty `shell` means the one in $SHELL. Raises ConfigError and OutputError.
    """
    shell = shell or Path(environment.get("SHELL", "")).name
    script = completion_script(shell)
    path, advice = _place(shell, environment)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    return f"wrote {path}\n{advice}"


def _place(shell: str, environment: Mapping[str, str]) -> tuple[Path, str]:
    """Return where a shell's script belongs, and how the shell finds it there."""
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    if shell == "bash":
        data = Path(environment.get("XDG_DATA_HOME") or home / ".local/share")
        path = data / "bash-completion/completions" / PROGRAM
        return path, (
            "new shells load it through bash-completion; without that package, add this line to"
            f" ~/.bashrc:\nsource '{path}'"
        )
    if shell == "fish":
        config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
        return config / "fish/completions" / f"{PROGRAM}.fish", "new shells load it"
    if shell == "zsh":
        folder = Path(environment.get("ZDOTDIR") or home) / ".zfunc"
        return folder / f"_{PROGRAM}", (
            f"add this line to ~/.zshrc, before the line with compinit:\nfpath=('{folder}' $fpath)"
        )
    raise ConfigError(
        f"shell must be bash, zsh or fish, got {shell}; use --print-completion {shell} and save the"
        " script"
    )
