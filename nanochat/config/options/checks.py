"""Checks of values together that are each valid alone, apart from the table in unsupported.py."""

from __future__ import annotations

import re
from typing import Any

from nanochat.config.option import shown
from nanochat.errors import ConfigError
from nanochat.system import processes

__all__ = [
    "budget_seconds",
    "check_adapt",
    "check_heads",
    "check_schedule",
    "check_separator",
    "check_start",
    "check_time_budget",
]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def check_start(config: Any) -> None:
    """Raise ConfigError for a source of the weights that another option excludes or needs."""
    if config.resume and config.init_from is not None:
        raise ConfigError(
            "resume continues a run with its own weights, init_from starts a new one; leave one"
            f" out, got init_from {shown(config.init_from)}"
        )
    if config.show_mask:
        for name in ("resume", "final_on_all"):
            if value := getattr(config, name):
                raise ConfigError(
                    f"show_mask shows the text of a new run; leave {name} out, got {shown(value)}"
                )
    if config.final_on_all is not None:
        for name in ("resume", "init_from", "time_budget"):
            if value := getattr(config, name):
                raise ConfigError(
                    f"final_on_all repeats the training of a run; leave {name} out, got"
                    f" {shown(value)}"
                )
    if config.extend_vocabulary and config.resume:
        raise ConfigError(
            "extend_vocabulary needs init_from, got resume, which keeps the vocabulary of its run;"
            " leave it out"
        )
    if config.extend_vocabulary and config.init_from is None:
        raise ConfigError("extend_vocabulary needs init_from; add init_from or leave it out")


def check_time_budget(
    config: Any,
    *,
    steps: int,  # default under the preset
) -> None:
    """Raise ConfigError for a time budget with steps, or in one of several processes."""
    if config.time_budget is None:
        return
    budget_seconds(config.time_budget)
    if config.steps != steps:
        raise ConfigError(f"time_budget chooses steps; leave out steps, got {config.steps}")
    if processes.world() > 1:
        raise ConfigError(
            f"time_budget needs a single process, got {processes.world()} processes; use steps"
        )


def check_heads(config: Any) -> None:
    """Raise ConfigError for a hidden size that the heads do not divide as they must."""
    if config.n_embd % config.n_head:
        raise ConfigError(
            f"n_embd must be a multiple of n_head, got n_embd {config.n_embd} and n_head"
            f" {config.n_head}; give both"
        )
    if config.positions == "rope" and config.head_dim % 2:
        raise ConfigError(
            f"positions rope needs an even head size n_embd / n_head, got {config.head_dim};"
            " use positions learned or change n_head"
        )


def check_schedule(config: Any) -> None:
    """Raise ConfigError for parts of the schedule that exclude each other."""
    if config.warmup_ratio + config.warmdown_ratio > 1 and config.lr_schedule != "constant":
        raise ConfigError(
            f"warmup_ratio + warmdown_ratio must be <= 1, got {config.warmup_ratio} +"
            f" {config.warmdown_ratio}; give both"
        )
    if config.schedule_points:
        from nanochat.config.schedule_points import SchedulePoints  # few runs have any

        SchedulePoints.parse(config.schedule_points)
        if config.time_budget is not None:
            raise ConfigError(
                "time_budget measures its own schedule_points, got both; leave one of them out"
            )


def budget_seconds(text: str) -> float:
    """Return the seconds of a time like 90, 60s, 1.5m or 2h. Raises ConfigError for other text.

    >>> budget_seconds("1.5m")
    90.0
    """
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([smh]?)", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"time_budget must be a time like 60s, 5m or 1h, got {shown(text)}")
    return seconds


def check_separator(separator: str | None, documents: str) -> None:
    """Raise ConfigError for a separator without a character, or next to another unit."""
    if separator == "":
        raise ConfigError("separator must have at least one character, got ''; leave it out")
    if separator is not None and documents != "auto":
        raise ConfigError(
            f"separator and documents both set the unit of a document, got separator"
            f" {shown(separator)} and documents {documents}; leave one out"
        )


def check_adapt(config: Any) -> None:
    """Raise ConfigError for counts that are to learn and to be left out."""
    if config.adapt and config.network_only:
        raise ConfigError("adapt lets the counts learn, which network_only leaves out; use one")
