"""The command line: flags made from the config dataclasses, errors made into messages.

This is the one place where a NanochatError becomes `error: …` and an exit code: 2 for a mistake
in what was asked, 1 for a run that failed. Commands are imported when they are called.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional

from nanochat.config.options import (
    AblateConfig,
    EvalConfig,
    Option,
    SampleConfig,
    TrainConfig,
    options_of,
)
from nanochat.config.sources import gather_options
from nanochat.errors import NanochatError
from nanochat.system import processes
from nanochat.system.streams import reserve_standard_files, write_progress

if TYPE_CHECKING:
    from cyclopts import App

    from nanochat.output.terminal import Terminal

__all__ = ["main"]

_HELP = "Train, sample, evaluate and ablate small language models from a text corpus."
_SUMMARIES = {
    "train": "Train a model on a text and show samples. With no options: names, in seconds.",
    "sample": "Write text with a trained model.",
    "eval": "Score a text with a trained model: loss and bits per byte.",
    "ablate": "Train a grid of variants over seeds and compare them.",
    "info": "Show versions, machine and native modules, for a bug report.",
}
_CONFIGS: dict[str, type | None] = {
    "train": TrainConfig,
    "sample": SampleConfig,
    "eval": EvalConfig,
    "ablate": AblateConfig,
    "info": None,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    reserve_standard_files()
    _never_fail_to_print()
    atexit.register(gc.freeze)  # at the end no one needs the cycles of all libraries searched
    try:
        flags = _plain_flags(words)
        return _parse_and_call(words) if flags is None else _call(words[0], flags)
    except NanochatError as error:
        _print_error(" ".join(str(error).splitlines()))
        return error.exit_code
    except MemoryError:
        _print_error("not enough memory; lower batch_size, block_size, n_embd or num_samples")
        return 1
    except KeyboardInterrupt:
        _print_error("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our stdout has gone; what is still buffered has no place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _plain_flags(words: Sequence[str]) -> dict[str, Any] | None:
    """The flags of a command that is spelled without surprises, by parameter; else None.

    Cyclopts knows every spelling, and what to say of a wrong one, but takes longer to import than
    a small model takes to train. What is read here it reads the same.
    """
    command, *rest = words or [""]
    if command not in _SUMMARIES:
        return None
    known = _command_options(command)
    switches = {"quiet": ("quiet", True), "json": ("json", True)}
    for name, option in known.items():
        if option.kind is bool:
            switches[name], switches[f"no_{name}"] = (name, True), (name, False)
    texts = {name for name, option in known.items() if option.kind not in (bool, tuple)}
    texts |= {"config"} if known else set()
    flags: dict[str, Any] = {}
    rest.reverse()
    while rest:
        flag, equals, value = rest.pop().partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag != "--" + name.replace("_", "-"):
            return None
        given: Any = None
        if name in switches and not equals:
            name, given = switches[name]
        elif name in texts:
            given = value if equals else rest.pop() if rest else ""
        if not (given is False or given) or str(given).startswith("-") or name in flags:
            return None
        flags[name] = given
    return flags


def _parse_and_call(words: Sequence[str]) -> int:
    """Have cyclopts read the words, then run the command. Returns its exit code."""
    # Completion scripts, too, have every option.
    show_all = "--help-all" in words or "--install-completion" in words
    words = ["--help" if word == "--help-all" else word for word in words]
    from cyclopts import CycloptsError

    app = _build_app(words, show_all)
    try:
        return int(
            app(words, exit_on_error=False, print_error=False, result_action="return_value") or 0
        )
    except CycloptsError as error:
        _print_error(" ".join(str(error).split()))
        return 2


def _never_fail_to_print() -> None:
    """Text that the terminal's encoding lacks is shown escaped instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_error(message: str) -> None:
    write_progress(f"error: {message}")


# ----------------------------------------------------------------------------------- the commands


def _call(command: str, flags: dict[str, Any]) -> int:
    """Run a command with its flags as they were read, None where not given."""
    from nanochat.output.terminal import Terminal

    terminal = Terminal(quiet=flags.pop("quiet", False), as_json=flags.pop("json", False))
    config_file = flags.pop("config", None)
    known = _command_options(command)
    options = gather_options(known, flags, os.environ, config_file)
    if known:
        _load_numpy()
    _run(command, options, terminal)
    return 0


def _load_numpy() -> None:
    """NumPy without the threads of its BLAS: nothing here uses them, and making them takes a third
    of NumPy's import. Torch and child processes see the environment as it was."""
    name = "OPENBLAS_NUM_THREADS"
    if name in os.environ:
        return
    os.environ[name] = "1"
    try:
        import numpy  # noqa: F401  # loaded now, while the variable stands
    finally:
        del os.environ[name]


def _run(command: str, options: Mapping[str, Any], terminal: Terminal) -> None:
    """Import the command and call it with its config."""
    if command == "train":
        from nanochat.commands.train import train

        config = TrainConfig(**options)
        elapsed_s = processes.age_s() if config.time_budget is not None else 0.0
        train(config, terminal=terminal, elapsed_s=elapsed_s)
    elif command == "sample":
        from nanochat.commands.sample import sample

        sample(SampleConfig(**options), terminal=terminal)
    elif command == "eval":
        from nanochat.commands.evaluate import evaluate

        evaluate(EvalConfig(**options), terminal=terminal)
    elif command == "ablate":
        from nanochat.commands.ablate import ablate

        own = {name: options[name] for name in options_of(AblateConfig) if name in options}
        base = {name: value for name, value in options.items() if name not in own}
        ablate(AblateConfig(**own), base, terminal=terminal)
    else:
        from nanochat.commands.info import info

        info(terminal=terminal)


def _command_options(command: str) -> dict[str, Option]:
    """The options of a command; an ablation takes every training option as the base of its runs."""
    config = _CONFIGS[command]
    known = options_of(config) if config is not None else {}
    if command == "ablate":
        base = {
            name: k for name, k in options_of(TrainConfig).items() if name not in ("resume", *known)
        }
        known = {**known, **base}
    return known


def _handler(command: str, show_all: bool) -> Callable[..., int]:
    """The function that cyclopts calls: one keyword argument an option, None where not given."""
    known = _command_options(command)

    def handle(**flags: Any) -> int:
        return _call(command, flags)

    parameters = [_parameter(name, option, show_all) for name, option in known.items()]
    parameters += _output_parameters(with_config=bool(known), show_all=show_all)
    handle.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    handle.__annotations__ = {p.name: p.annotation for p in parameters}
    handle.__doc__ = _SUMMARIES[command]
    handle.__name__ = command
    return handle


def _parameter(name: str, option: Option, show_all: bool) -> inspect.Parameter:
    from cyclopts import Parameter

    details: dict[str, Any] = {
        "group": option.group,
        "show": option.common or show_all,
        "show_default": False,
    }
    default = "" if option.default in (None, "", ()) else f" [default: {_spelled(option.default)}]"
    if option.choices:
        default = f" [{', '.join(option.choices)}]{default}"
    details["help"] = option.help + default
    details["metavar"] = {int: "N", float: "X", bool: ""}.get(
        option.kind, "NAME" if option.choices else "TEXT"
    )
    if option.kind is tuple:
        annotation: Any = Optional[tuple[str, ...]]
        details["negative"] = ""
    elif option.kind is bool:
        annotation = Optional[bool]
    else:
        annotation = Optional[str]  # text: our own words for a wrong value, the same as the API's
    flag = "--" + name.replace("_", "-")
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[annotation, Parameter(name=flag, **details)],
    )  # fmt: skip


def _output_parameters(*, with_config: bool, show_all: bool) -> list[inspect.Parameter]:
    from cyclopts import Parameter

    def parameter(name: str, kind: Any, default: Any, help: str) -> inspect.Parameter:
        note = Parameter(
            name=f"--{name}", help=help, group="Output", negative="", show_default=False
        )
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, note]
        )

    config = parameter(
        "config", Optional[str], None, "TOML file of options; flags and NCLAB_* go over it."
    )
    quiet = parameter("quiet", bool, False, "No progress and no notes.")
    as_json = parameter("json", bool, False, "One JSON object on stdout instead of text.")
    return [*([config] if with_config else []), quiet, as_json]


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _version() -> str:
    from importlib import metadata  # slow to import, and help does not need it

    return metadata.version("nanochat-lab")


def _build_app(words: Sequence[str], show_all: bool) -> App:
    """The application. Only the command that was called gets its options: making all of them
    takes longer than the command's own help may; completion scripts need every one."""
    from cyclopts import App

    app = App(
        name="nanochat", help=_HELP, version=_version,
        suppress_keyboard_interrupt=False, help_format="plaintext",
        help_epilogue="`nanochat COMMAND --help-all` shows every option.",
    )  # fmt: skip
    app.register_install_completion_command(name="--install-completion")
    called = [word for word in words[:1] if word in _SUMMARIES]
    whole = called or (_SUMMARIES if "--install-completion" in words else [])
    for command, summary in _SUMMARIES.items():
        if command in whole:
            app.command(_handler(command, show_all), name=command)
        else:
            app.command(App(name=command, help=summary))
    return app
