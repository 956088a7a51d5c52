"""The page of `nanochat inspect`: one HTML file with everything inside, for any browser, offline.

The browser's code is in page/, by hand and without a library. Leaves out what the page shows
(facts.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["assembled", "page_text", "policy_of"]

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
    return assembled(FOLDER, SCRIPTS, facts)


def assembled(
    folder: Path,  # with page.html, page.css and the scripts
    scripts: Sequence[str],  # in this order they are one script
    facts: Mapping[str, Any],
    may: str = "",  # what the policy allows in addition
) -> str:
    """Return a page with its style, its script, its facts and its policy inside."""
    style, script = _style_and_script(folder, scripts)
    policy = policy_of(folder, scripts, may)
    parts = {"style": style, "script": script, "facts": _json(facts), "policy": policy}
    page, *rest = _read(folder, "page.html").split("{{")
    for part in rest:
        name, after = part.split("}}", maxsplit=1)
        page += parts[name] + after
    return page


def policy_of(folder: Path, scripts: Sequence[str], may: str = "") -> str:
    """Return the policy of a page: to run its script and use its style, and what it `may`."""
    style, script = _style_and_script(folder, scripts)
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)};"
        f" base-uri 'none'; form-action 'none'{may}"
    )


def _style_and_script(folder: Path, scripts: Sequence[str]) -> tuple[str, str]:
    text = "".join(_read(folder, name) for name in scripts)
    return "\n" + _read(folder, "page.css"), f'\n(() => {{\n"use strict";\n{text}}})();\n'


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


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
