"""mkdocs hook: name files outside the site instead of linking to them.

In the repository a page links to ../bench/results/…; the site does not contain these files.
"""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./([^)]*)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each link to a file above docs/ by its text and the file's path."""
    return _OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2]}`)", markdown)
