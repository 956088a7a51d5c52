"""mkdocs hook: tables of options from their declarations, and no links out of the site."""

from __future__ import annotations

import posixpath
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

from nanochat.config import options
from nanochat.config.option import UNSET

_UPWARD = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)]*)\)")
_OPTIONS = re.compile(r"<!-- options of (\w+) -->")


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config: Any) -> Any:
    """Read the API from the package that has the compiled files, whose stubs document them."""
    compiled = find_spec("nanochat._scalar")
    assert compiled is not None and compiled.origin is not None, "run `pip install .` first"
    folder = Path(compiled.origin).parents[1]
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(folder)]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the tables, and name files outside docs/, which the site lacks, by their paths."""
    folder = posixpath.dirname(page.file.src_uri)

    def inside_or_named(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[2]))
        return f"{link[1]} (`{path[3:]}`)" if path.startswith("../") else link[0]

    markdown = _UPWARD.sub(inside_or_named, markdown)
    return _OPTIONS.sub(lambda mark: options_table(mark[1]), markdown)


def options_table(config: str) -> str:
    """Return a table of the fields of a config class: name, default, meaning."""
    lines = ["| field | default | meaning |", "|---|---|---|"]
    for name, option in options.options_of(getattr(options, config)).items():
        default = repr(option.default) if option.default is not UNSET else "by preset"
        meaning = option.help
        if option.choices:
            meaning += " One of " + ", ".join(f"`{choice}`" for choice in option.choices) + "."
        if option.also:
            meaning += (
                " On the command line also " + ", ".join(f"`--{n}`" for n in option.also) + "."
            )
        cells = f"`{name}`", f"`{default}`", meaning.replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
