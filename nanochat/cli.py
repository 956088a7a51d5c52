"""The command line: runs one command and turns errors into messages and exit codes.

This is the only place where a NanochatError becomes `error: …` and an exit code: 2 for a mistake in
the request, 1 for a run that failed. config/flags.py reads the words. Commands, help pages and
completion scripts are imported when they are asked for.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nanochat.config.flags import (
    HELP_FLAGS,
    command_options,
    read_flags,
    read_front_flags,
    split_command,
)
from nanochat.config.options import (
    AblateConfig,
    ChatConfig,
    EvalConfig,
    ExportConfig,
    InfoConfig,
    InspectConfig,
    SampleConfig,
    ServeConfig,
    TrainConfig,
    options_of,
)
from nanochat.config.sources import gather_options
from nanochat.errors import CheckpointError, NanochatError, NonFiniteStep, RunInterrupted
from nanochat.system import processes
from nanochat.system.interruption import end_interrupted, write_interruption
from nanochat.system.streams import (
    PROGRESS,
    reserve_standard_files,
    write_progress,
    write_result,
)

if TYPE_CHECKING:
    from nanochat.output.terminal import Terminal

__all__ = ["main"]

_NO_MEMORY = "not enough memory; lower batch_size, block_size, n_embd or num_samples"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    reserve_standard_files()
    _escape_unprintable_output()
    try:
        _answer(words)
        return 0
    except RunInterrupted as stopped:
        if not processes.is_copy():
            write_interruption(str(stopped))
        return stopped.exit_code
    except NanochatError as error:
        if not _rank_0_tells(error):
            for line in error.details.splitlines():
                _print(line)
            _print_error(" ".join(str(error).splitlines()))
        return error.exit_code
    except MemoryError:
        _print_error(_NO_MEMORY)
        return 1
    except ImportError as error:
        if not _is_out_of_memory(error):
            raise
        _print_error(_NO_MEMORY)
        return 1
    except KeyboardInterrupt as interruption:
        return end_interrupted(interruption)
    except BrokenPipeError:
        # The reader of stdout has gone, so what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, RecursionError) as error:  # that no command has expected
        _print_error(_unexpected(error))
        return 1


def _is_out_of_memory(error: ImportError) -> bool:
    """Whether a compiled module could not be mapped into memory, in the loader's words."""
    words = ("failed to map segment", "annot allocate memory", "cannot map")
    return any(each in str(error) for each in words)


def _unexpected(error: OSError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "the input is nested too deeply to be read; give one of fewer levels"
    what = "the system call" if error.filename is None else str(error.filename)
    reason = error.strerror or str(error) or type(error).__name__
    return f"the system refused {what}: {reason}; check the disk, its permissions and limits"


def _rank_0_tells(error: NanochatError) -> bool:
    """Whether rank 0 meets the same error, so that one line tells it."""
    is_shared = error.exit_code == 2 or isinstance(error, (CheckpointError, NonFiniteStep))
    return is_shared and processes.is_copy()


def _escape_unprintable_output() -> None:
    """Escape the text that the terminal's encoding lacks, instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_error(message: str) -> None:
    _print(f"error: {message}")


def _print(line: str) -> None:
    from nanochat.output.text import escaped  # names and answers of servers may hold anything

    write_progress(escaped(line) if PROGRESS.isatty() else line)


def _answer(words: Sequence[str]) -> None:
    """Run the command that the words name, or show the page that they ask for."""
    command, rest = split_command(words)
    options = rest[: rest.index("--")] if "--" in rest else rest
    if not command:
        _answer_front(words)
    elif any(word in HELP_FLAGS for word in options):
        from nanochat.config import help_page  # imports rich

        help_page.show(help_page.command_page(command, rest, os.environ))
    else:
        _call(command, read_flags(command, rest))


def _answer_front(words: Sequence[str]) -> None:
    """Show the version, a completion script, or the page that lists the commands."""
    flags = read_front_flags(words)
    if "version" in flags:
        from importlib import metadata  # slow to import

        write_result(f"{metadata.version('nanochat-lab')}\n")
    elif "print_completion" in flags:
        from nanochat.config.completion import completion_script

        write_result(f"{completion_script(flags['print_completion'])}\n")
    elif "install_completion" in flags:
        from nanochat.config.completion import install_completion

        write_result(f"{install_completion(flags['install_completion'], os.environ)}\n")
    else:
        from nanochat.config import help_page

        help_page.show(help_page.front_page())


# ------------------------------------------------------------------------------------- the commands


def _call(command: str, flags: dict[str, Any]) -> None:
    """Run a command with its flags as text."""
    from nanochat.output.terminal import Terminal

    terminal = Terminal(quiet=flags.pop("quiet", False), as_json=flags.pop("json", False))
    config_file = flags.pop("config", None)
    known = command_options(command)
    options = gather_options(known, flags, os.environ, config_file)
    if not command.startswith(("train", "runs", "info")):
        _load_numpy()
    _run(command, options, terminal)


def _load_numpy(and_torch: bool = False) -> None:
    """Import NumPy without the threads of its BLAS, and begin to import torch meanwhile.

    The project does not use them, and starting them takes a third of NumPy's import. Torch and
    child processes see the environment unchanged.
    """
    from nanochat.system import torch_import  # --help needs neither

    name = "OPENBLAS_NUM_THREADS"
    is_set = name in os.environ
    # Torch for other processors may have an OpenBLAS, which must not read the variable.
    is_early = sys.platform != "linux" or os.uname().machine == "x86_64"
    os.environ.setdefault(name, "1")
    try:
        if and_torch and is_early:
            torch_import.begin()
        import numpy  # noqa: F401  # imported while the variable is set
    finally:
        if not is_set:
            del os.environ[name]
    if and_torch and not is_early:
        torch_import.begin()


def _run(command: str, options: Mapping[str, Any], terminal: Terminal) -> None:
    """Import the command and call it with its config."""
    if command == "train":
        from nanochat.system.torch_import import importing

        config = TrainConfig(**options)
        if processes.world() > 1:
            # Torch raises what it logs, and logs tens of lines per error.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
        with importing():
            _load_numpy(and_torch=config.mode == "tensor")
            from nanochat.commands.train import train

            gc.freeze()  # modules stay, so no collection has to search them

        if config.show_mask:
            from nanochat.commands.show_mask import show_mask

            show_mask(config, terminal)
            return
        # The run that is resumed may have a time budget.
        counts_time = config.time_budget is not None or config.resume
        elapsed_s = processes.age_s() if counts_time else 0.0
        train(config, terminal=terminal, elapsed_s=elapsed_s)
    elif command == "sample":
        from nanochat.commands.sample import sample

        sample(SampleConfig(**options), terminal=terminal)
    elif command == "chat":
        from nanochat.commands.chat import chat

        chat(ChatConfig(**options), terminal=terminal)
    elif command == "eval":
        from nanochat.commands.evaluate import evaluate

        evaluate(EvalConfig(**options), terminal=terminal)
    elif command == "inspect":
        from nanochat.commands.inspect import inspect

        inspect(InspectConfig(**options), terminal=terminal)
    elif command == "export":
        from nanochat.commands.export import export

        export(ExportConfig(**options), terminal=terminal)
    elif command == "serve":
        from nanochat.commands.serve import serve

        serve(ServeConfig(**options), terminal=terminal)
    elif command == "ablate":
        from nanochat.commands.ablate import ablate

        grid = {name: options[name] for name in options_of(AblateConfig) if name in options}
        runs = {name: value for name, value in options.items() if name not in grid}
        ablate(AblateConfig(**grid), runs, terminal=terminal)
    elif command.startswith("runs"):
        from nanochat.commands.runs import run_command

        run_command(command, options, terminal=terminal)
    else:
        from nanochat.commands.info import info

        info(InfoConfig(**options), terminal=terminal)
