"""The options of every command: type, default, help text and check, declared once.

A config is complete as soon as it exists: values that are not given come from its preset, `auto`
values that need no device are resolved, and every value and combination has been checked. The
command line, the environment, config files and Python all build configs through these
constructors, so all of them refuse the same mistakes in the same words.
"""

from __future__ import annotations

from nanochat.config.option import AUTO, Option, closest, options_of
from nanochat.config.options.checks import budget_seconds
from nanochat.config.options.renamed import RENAMED, with_new_names
from nanochat.config.options.runs import (
    AblateConfig,
    InfoConfig,
    RunsCompareConfig,
    RunsConfig,
    RunsPruneConfig,
    RunsRemoveConfig,
    RunsShowConfig,
)
from nanochat.config.options.shared import (
    ABLATIONS_DIR,
    BEST,
    CHECKPOINTS_DIR,
    MAX_SEED,
    RUNS_DIR,
    TABLE_SUFFIXES,
)
from nanochat.config.options.train import (
    ARCHITECTURE,
    TrainConfig,
    merged_config,
    preset_defaults,
    resolve_preset,
)
from nanochat.config.options.trained import (
    VIEWS,
    ChatConfig,
    EvalConfig,
    ExportConfig,
    InspectConfig,
    SampleConfig,
    ServeConfig,
)
from nanochat.config.presets import PRESETS
from nanochat.config.unsupported import UNSUPPORTED

__all__ = [
    "ABLATIONS_DIR",
    "AUTO",
    "CHECKPOINTS_DIR",
    "MAX_SEED",
    "PRESETS",
    "RENAMED",
    "RUNS_DIR",
    "UNSUPPORTED",
    "VIEWS",
    "AblateConfig",
    "ARCHITECTURE",
    "BEST",
    "ChatConfig",
    "EvalConfig",
    "InfoConfig",
    "ExportConfig",
    "InspectConfig",
    "Option",
    "RunsCompareConfig",
    "RunsConfig",
    "RunsPruneConfig",
    "RunsRemoveConfig",
    "RunsShowConfig",
    "SampleConfig",
    "ServeConfig",
    "TABLE_SUFFIXES",
    "TrainConfig",
    "budget_seconds",
    "closest",
    "merged_config",
    "options_of",
    "preset_defaults",
    "resolve_preset",
    "with_new_names",
]
