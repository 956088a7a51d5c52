"""Options under the names of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.config.option import AUTO
from nanochat.config.share import FITTED

__all__ = ["RENAMED", "with_new_names"]

# Options of saved configs under their earlier names.
_EARLIER = {
    "past_embeds": "prev_token_tables",
    "ngram_rows": "hash_embed_rows",
    "ngram_longest": "hash_embed_longest",
    "ngram_offset": "ngram_share",
}
# Names that a message answers with that of the option: earlier ones, and those of other commands.
RENAMED = {
    **_EARLIER,
    "baseline": "from_counts",  # of sample; train has another option of this name
    "run": "out",  # of train; commands that open a run have this option
}


def with_new_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved options under the names of this version."""
    # Of an option under both names, the earlier one stays and is refused as unknown.
    return {
        _EARLIER[name] if name in _EARLIER and _EARLIER[name] not in options else name: (
            _share_of_offset(value) if name == "ngram_offset" else value
        )
        for name, value in options.items()
    }


def _share_of_offset(value: Any) -> Any:
    """Return the ngram_share of an earlier ngram_offset, which was -1 for auto."""
    return FITTED if value == AUTO else f"1,{value}"
