"""One exception class for each kind of mistake that a user can make.

A message names the thing, the rule, the value and, if there is one, the way out. Only the command
line turns errors into text and exit codes; it prints `error: <message>`.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "AblationError",
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "ExportError",
    "KernelError",
    "LogitsError",
    "MemoryDrift",
    "MissingDependency",
    "ModelFileError",
    "NanochatError",
    "NonFiniteStep",
    "OtherVersion",
    "OutOfMemory",
    "OutputError",
    "ProcessGroupError",
    "ProgramError",
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
    """A user's mistake or a failed run. `exit_code` is 2 for a mistake, 1 for a failed run."""

    exit_code = 2
    is_mendable = False  # outside of the request: by other files, packages or free memory
    details = ""  # lines that the command line shows before the message


class ConfigError(NanochatError):
    """A wrong value, or an option, variable or command that does not exist."""


class UnsupportedOption(ConfigError):
    """A combination of valid options that no engine or model supports."""


class UnsupportedModelKind(UnsupportedOption):
    """A model kind that the preset does not support."""


class UnsupportedDevice(UnsupportedOption):
    """A device that the engine does not support, or that this machine does not have."""


class UnsupportedDtype(UnsupportedOption):
    """A dtype that the engine or device does not support."""


class UnsupportedOptimizer(UnsupportedOption):
    """An optimizer that the engine or model does not support."""


class UnsupportedActivation(UnsupportedOption):
    """An activation that the model kind does not support."""


class MissingDependency(NanochatError):
    """An optional package that the engine or the input needs is not installed."""

    is_mendable = True


class ModelFileError(NanochatError):
    """A fault in a model file of the user's own; its `__cause__` is the exception.

    `details` is the traceback, of the user's own lines alone.
    """

    exit_code = 1
    is_mendable = True

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message, details)  # both are arguments, as pickle needs them
        self.details = details

    def __str__(self) -> str:
        return str(self.args[0])


class KernelError(NanochatError):
    """A compiled kernel is missing or refuses its input."""

    exit_code = 1
    is_mendable = True


class LogitsError(KernelError):
    """A row of logits from which no token can be drawn: it holds NaN, or only −inf."""

    is_mendable = False


class CorpusError(NanochatError):
    """Text that cannot be found, read, decoded or split."""

    is_mendable = True


class TokenizerError(NanochatError):
    """Text that the tokenizer does not know, or an invalid tokenizer file."""


class PromptTooLong(NanochatError):
    """A prompt that leaves no room for a token in the context window."""


class ProgramError(NanochatError):
    """A function that cannot be recorded as the requested program."""


class OutputError(NanochatError):
    """A folder or file that cannot be written or already holds something else."""

    exit_code = 1
    is_mendable = True


class ExportError(NanochatError):
    """Another program computes something else from exported files than this one."""

    exit_code = 1


class CheckpointError(NanochatError):
    """A checkpoint that is missing, incomplete, damaged or of another kind."""

    exit_code = 1
    is_mendable = True


class OtherVersion(CheckpointError):
    """A checkpoint whose config this version of nanochat does not know."""


class NonFiniteStep(NanochatError):
    """A loss or gradient that is not finite, or a loss that no training lowers again.

    `step` is the last step whose batch has a part in it, from 1; `figures` is what was measured.
    """

    exit_code = 1

    def __init__(
        self, what: str, step: int = 0, figures: Mapping[str, float | None] | None = None
    ) -> None:
        super().__init__(what, step, figures)  # all are arguments, as pickle needs them
        self.step, self.figures = step, figures or {}

    def __str__(self) -> str:
        return str(self.args[0])


class OutOfMemory(NanochatError):
    """A microbatch that does not fit in memory."""

    exit_code = 1

    def __init__(self, rows: int, block_size: int, halved: bool) -> None:
        way_out = "lower block_size or n_embd" if halved else "lower it or use --auto-batch"
        shape = f"{rows} row{'s' * (rows != 1)} of {block_size} token{'s' * (block_size != 1)}"
        super().__init__(f"batch_size must fit in memory, got {shape}; {way_out}")


class MemoryDrift(NanochatError):
    """Resident memory grew by more than the allowed ratio during a run."""

    exit_code = 1


class ProcessGroupError(NanochatError):
    """Several processes that cannot find each other, or one of which has ended."""

    exit_code = 1
    is_mendable = True


class AblationError(NanochatError):
    """Some runs of an ablation failed; the finished ones are kept."""

    exit_code = 1


class RunInterrupted(NanochatError):
    """A signal ended the run after its checkpoint was saved. It is not a mistake: the command line
    prints it without `error:`."""

    exit_code = 1

    def __init__(self, what: str, way_on: str = "") -> None:
        super().__init__(what, way_on)  # both are arguments, as pickle needs them
        self.what = what

    def __str__(self) -> str:
        return "; ".join(part for part in self.args if part)
