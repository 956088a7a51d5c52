"""Placeholder until the page is merged."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["page_text"]


def page_text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts)
