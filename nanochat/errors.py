"""Every mistake that a user can make, as one exception class a kind.

Messages name the thing, the rule and the value, and where there is one, a way out. The command
line is the only place that turns them into text and an exit code; it prints `error: <message>`.
"""

from __future__ import annotations

__all__ = [
    "AblationError",
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "KernelError",
    "MemoryDrift",
    "MissingDependency",
    "NanochatError",
    "NonFiniteStep",
    "OutOfMemory",
    "OutputError",
    "ProcessGroupError",
    "PromptTooLong",
    "RunInterrupted",
    "TokenizerError",
    "UnsupportedActivation",
    "UnsupportedDevice",
    "UnsupportedDtype",
    "UnsupportedModelKind",
    "UnsupportedOptimizer",
    "UnsupportedOption",
]


class NanochatError(Exception):
    """A user's mistake or a failed run. `exit_code`: 2 for usage, 1 for a run that failed."""

    exit_code = 2


class ConfigError(NanochatError):
    """A value, key or variable of the configuration that is wrong by itself."""


class UnsupportedOption(ConfigError):
    """A combination of options, each right by itself, that no engine or model offers."""


class UnsupportedModelKind(UnsupportedOption):
    """A model kind that the preset or engine does not have."""


class UnsupportedDevice(UnsupportedOption):
    """A device that the engine cannot use, or that this machine does not have."""


class UnsupportedDtype(UnsupportedOption):
    """A dtype that the engine or device does not compute in."""


class UnsupportedOptimizer(UnsupportedOption):
    """An optimizer that the engine or model kind has no place for."""


class UnsupportedActivation(UnsupportedOption):
    """An activation that the model kind has no place for."""


class MissingDependency(NanochatError):
    """An optional package that the chosen engine or input needs is not installed."""


class KernelError(NanochatError):
    """A compiled kernel that is missing, or that refuses its input."""

    exit_code = 1


class CorpusError(NanochatError):
    """Text that cannot be read, decoded, split or found."""


class TokenizerError(NanochatError):
    """Text that the tokenizer does not know, or a tokenizer file that is not one."""


class PromptTooLong(NanochatError):
    """A prompt that leaves no room in the context."""


class ProgramError(NanochatError):
    """A function that cannot be recorded as the program that was asked for."""


class OutputError(NanochatError):
    """A folder or file that cannot be written, or that holds something else."""

    exit_code = 1


class CheckpointError(NanochatError):
    """A checkpoint that is absent, incomplete, damaged or of another kind."""

    exit_code = 1


class NonFiniteStep(NanochatError):
    """A loss or gradient that is not finite; the weights are those from before the step."""

    exit_code = 1


class OutOfMemory(NanochatError):
    """A microbatch that does not fit in memory."""

    exit_code = 1

    def __init__(self, rows: int, block_size: int, halved: bool) -> None:
        way_out = "lower block_size or n_embd" if halved else "lower it or use --auto-batch"
        super().__init__(
            f"batch_size must fit in memory, got {rows} rows of {block_size} tokens; {way_out}"
        )


class MemoryDrift(NanochatError):
    """Resident memory that grew past the allowed ratio during a run."""

    exit_code = 1


class ProcessGroupError(NanochatError):
    """Several processes that cannot find each other, or one of which has ended."""

    exit_code = 1


class AblationError(NanochatError):
    """An ablation some of whose runs failed; the finished ones are kept."""

    exit_code = 1


class RunInterrupted(NanochatError):
    """A signal ended the run after its checkpoint was saved."""

    exit_code = 1
