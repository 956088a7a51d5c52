"""The page of `nanochat inspect`: one HTML file with everything inside, for any browser, offline.

The browser's code is in page/, by hand and without a library. Leaves out what the page shows
(facts.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["page_text"]

FOLDER = Path(__file__).parent / "page"

# In this order they are one script.
SCRIPTS = (
    "data.js", "formulas.js", "dom.js", "views/loss.js", "views/matrices.js", "views/number.js",
    "views/attention.js", "views/lens.js", "views/parameter.js", "views/embeddings.js",
    "views/importance.js", "views/tokenizer.js", "main.js",
)  # fmt: skip


def page_text(facts: Mapping[str, Any]) -> str:
    """Return the page that shows the facts of a trace (`inspection.facts.facts`).

    Its policy lets a browser run this one script and nothing else, and load nothing.
    """
    scripts = "".join(_read(name) for name in SCRIPTS)
    parts = {
        "style": "\n" + _read("page.css"),
        "script": f'\n(() => {{\n"use strict";\n{scripts}}})();\n',
        "facts": _json(facts),
    }
    parts["policy"] = (
        f"default-src 'none'; script-src {_hash(parts['script'])};"
        f" style-src {_hash(parts['style'])}; base-uri 'none'; form-action 'none'"
    )
    page, *rest = _read("page.html").split("{{")
    for part in rest:
        name, after = part.split("}}", maxsplit=1)
        page += parts[name] + after
    return page


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _json(facts: Mapping[str, Any]) -> str:
    """Return JSON in ASCII that no HTML parser ends early. Numbers that are not finite are null."""
    text = json.dumps(_finite(facts), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
