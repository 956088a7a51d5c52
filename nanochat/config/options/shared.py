"""The parts that the options of several commands share: groups, folders, the option of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.config.option import assign, defaults_of, option, parse_given
from nanochat.config.unsupported import Effect, check_effects

__all__ = [
    "ABLATIONS_DIR",
    "BEST",
    "CHECKPOINTS_DIR",
    "DATA",
    "MAX_SEED",
    "MODEL",
    "OPTIMIZATION",
    "RUN",
    "RUNS_DIR",
    "SAMPLING",
    "TABLE_SUFFIXES",
    "WithoutPreset",
    "run_option",
]

# The groups of options in the help.
MODEL, DATA, OPTIMIZATION, RUN, SAMPLING = "Model", "Data", "Optimization", "Run", "Sampling"

RUNS_DIR = "runs"
CHECKPOINTS_DIR = "checkpoints"
ABLATIONS_DIR = "ablations"
TABLE_SUFFIXES = (".jsonl", ".csv")  # of the files with a row per token
BEST = "best"  # the name of the checkpoint with the lowest validation loss

MAX_SEED = 2**32 - 1  # one word of the Philox key


class WithoutPreset:
    """Complete and check a config that has no presets."""

    __slots__ = ()

    def __post_init__(self) -> None:
        assign(self, {**defaults_of(type(self), {}), **parse_given(self)})

    def _check_effects(self, given: Mapping[str, Any], effects: tuple[Effect, ...]) -> None:
        """Raise UnsupportedOption for a given option without an effect.

        If every option is given, as by dataclasses.replace, for one with a value that is not the
        default.
        """
        defaults = defaults_of(type(self), {})
        is_rebuilt = given.keys() >= defaults.keys()
        asked = {
            n for n in given if given[n] != "auto" and not (is_rebuilt and given[n] == defaults[n])
        }
        check_effects(self, asked, effects)


def run_option(group: str) -> Any:
    """Declare the option that names a run."""
    return option(
        None,
        "Run folder, its name below runs/, or a checkpoint folder; default: the newest finished"
        " run.", group=group, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
