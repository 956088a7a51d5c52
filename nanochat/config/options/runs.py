"""The options of the commands about runs: ablate, info, and runs with what it shows and removes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nanochat.config.option import option
from nanochat.config.options.shared import RUN, RUNS_DIR, WithoutPreset, run_option

__all__ = [
    "AblateConfig",
    "InfoConfig",
    "RunsCompareConfig",
    "RunsConfig",
    "RunsPruneConfig",
    "RunsRemoveConfig",
    "RunsShowConfig",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateConfig(WithoutPreset):
    """The options of `nanochat ablate`: a grid of training runs.

    The grid is the product of `vary`, times the seeds.
    """

    vary: tuple[str, ...] = option(
        (), "Option to vary and its values, such as n_layer=1,2; repeatable.", group=RUN,
        common=True,
    )  # fmt: skip
    seeds: int = option(
        3, "Seeds per variant: 1337, 1338, …", group=RUN, low=1, high=10_000, common=True
    )
    jobs: int = option(1, "Runs at the same time.", group=RUN, low=1, high=1024, common=True)
    out: str | None = option(
        None, "Folder of the ablation; default: ablations/ and the names of the varied options.",
        group=RUN, path=True, kind=str, optional=True, common=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoConfig(WithoutPreset):
    """The options of `nanochat info`."""

    run: str | None = option(
        None, "Also describe the counts of this run: a folder, or a name below runs/.", group=RUN,
        path=True, kind=str, optional=True, common=True,
    )  # fmt: skip


def _dir_option() -> Any:
    return option(
        RUNS_DIR, "Folder that holds the runs.", group=RUN, path=True, kind=str, common=True
    )


def _runs_option(help: str) -> Any:
    return option((), help, group=RUN, path=True, common=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsConfig(WithoutPreset):
    """The options of `nanochat runs`, which lists runs."""

    dir: str = _dir_option()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsShowConfig(WithoutPreset):
    """The options of `nanochat runs show`."""

    run: str | None = run_option(RUN)
    dir: str = _dir_option()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsCompareConfig(WithoutPreset):
    """The options of `nanochat runs compare`."""

    runs: tuple[str, ...] = _runs_option("Runs to compare, two or more.")
    out: str | None = option(
        None, "Picture of the curves; default: compare.svg in the folder of the runs.", group=RUN,
        path=True, kind=str, optional=True, common=True,
    )  # fmt: skip
    dir: str = _dir_option()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsRemoveConfig(WithoutPreset):
    """The options of `nanochat runs remove`."""

    runs: tuple[str, ...] = _runs_option("Runs to remove.")
    yes: bool = option(False, "Remove without asking.", group=RUN, common=True)
    dir: str = _dir_option()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsPruneConfig(WithoutPreset):
    """The options of `nanochat runs prune`."""

    runs: tuple[str, ...] = _runs_option("Runs whose checkpoints to remove; default: all runs.")
    keep: str = option(
        "last:2,best",
        "Checkpoints to keep: last:N for the last N, best for the one with the lowest validation"
        " loss, or all. The best and the newest are always kept.", group=RUN, common=True,
    )  # fmt: skip
    dir: str = _dir_option()
