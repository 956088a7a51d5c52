"""Whether this user has named the text of a run. Only then may a command open it again.

A checkpoint from another person may name any file, URL or pipe as its text. A checkpoint is sealed
with a key in the user's cache folder, over the names of its text. Without a right seal, the run is
foreign, or of an earlier version, or the cache was lost. Then only harmless names are opened:
copies in the run folder, registry names, and files in the working folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from nanochat.config.option import shown
from nanochat.config.options import TrainConfig
from nanochat.data.registry import REGISTRY
from nanochat.data.sources.fetching import STDIN, is_url, kept_copy
from nanochat.data.sources.locating import REGISTRY_PREFIX
from nanochat.errors import CheckpointError
from nanochat.runs.reading import Checkpoint
from nanochat.system.cache import user_key

__all__ = ["check_own_text", "is_own", "seal"]

_SEAL = "text_seal"  # in the data of a checkpoint


def seal(config: TrainConfig) -> dict[str, str]:
    """Return what a checkpoint's data hold of the user who named the text; nothing without a
    cache."""
    key = user_key()
    return {} if key is None else {_SEAL: _sealed(config, key)}


def is_own(checkpoint: Checkpoint) -> bool:
    """Return whether this user has trained with the text that the checkpoint names."""
    found, key = checkpoint.data.get(_SEAL), user_key()
    if found is None or key is None:
        return False
    return bool(found == _sealed(checkpoint.options, key))


def check_own_text(checkpoint: Checkpoint, way_out: str) -> None:
    """Raise CheckpointError unless the text that the checkpoint names may be opened."""
    if is_own(checkpoint):
        return
    options = checkpoint.options
    names = [name for name in options.data if not _is_harmless(name, checkpoint.run_folder)]
    if options.data_dir is not None and not _is_here(options.data_dir):
        names.append(options.data_dir)
    if names:
        raise CheckpointError(
            f"{checkpoint.path} names the text {shown(names[0])}, which was not named on this"
            f" machine by this user, so it is not opened; {way_out}"
        )


def _sealed(config: TrainConfig, key: bytes) -> str:
    named = json.dumps([list(config.data), config.data_dir]).encode()
    return hashlib.blake2b(named, key=key, digest_size=32).hexdigest()


def _is_harmless(name: str, run_folder: Path) -> bool:
    if name == STDIN or is_url(name):
        return kept_copy(run_folder, name) is not None
    if name.startswith(REGISTRY_PREFIX):
        return True
    if not os.path.lexists(name) and name in REGISTRY:
        return True
    return _is_here(name) and not os.path.isdir(name)


def _is_here(name: str) -> bool:
    """Return whether the name is relative and leads to nothing outside of the working folder."""
    if os.path.isabs(name) or name.startswith("~"):
        return False
    here = os.path.realpath(os.curdir)
    return os.path.commonpath([here, os.path.realpath(name)]) == here
