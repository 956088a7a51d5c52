"""mkdocs hook: each notebook becomes a page with its outputs, and is a file to download.

A page is Markdown that the theme renders like every other page: no scripts, no other styles.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_NOTEBOOK_LINK = re.compile(r"\]\(([\w/-]+)\.ipynb\)")
_SVG = "image/svg+xml"
_WIDE = 700  # pixels; a wider picture scrolls on a phone instead of becoming too small to read
_PICTURE = '<div class="output"><img alt="Figure of the code above" src="data:{};base64,{}"></div>'


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook, next to the notebook itself."""
    from mkdocs.structure.files import File  # the tests have no mkdocs

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        path = Path(file.abs_src_path)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        page = file.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, page, content=page_text(notebook, path.name)))
    return files


def page_text(notebook: Mapping[str, Any], name: str) -> str:
    """Return a notebook as Markdown."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("<details>", '<details markdown="1">'))
        else:
            parts.append(_fenced("python", source))
            parts += [text for output in cell["outputs"] for text in _output(output)]
    title, _, rest = "\n\n".join(parts).partition("\n")
    link = f'This page is the notebook <a href="../{name}" download>{name}</a>.'
    return f"{title}\n\n{link}\n{rest}\n"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to notebooks lead to their pages."""
    return _NOTEBOOK_LINK.sub(r"](\1.md)", markdown)


def _output(output: Mapping[str, Any]) -> Iterator[str]:
    """Yield the richest form of an output, as Jupyter shows it."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if "text" in output:
        yield _fenced("{ .text .no-copy .output }", "".join(output["text"]))
    elif "text/html" in data:
        html = " ".join(data["text/html"].split("\n"))  # Markdown ends raw HTML at an empty line
        yield f'<div class="output">{html}</div>'
    elif _SVG in data:
        svg = data[_SVG]
        picture = _PICTURE.format(_SVG, base64.b64encode(svg.encode()).decode())
        width = re.search(r'<svg[^>]* width="([\d.]+)"', svg)
        is_wide = width is not None and float(width[1]) > _WIDE
        yield picture.replace('"output"', '"output wide"') if is_wide else picture
    elif "image/png" in data:
        yield _PICTURE.format("image/png", data["image/png"].strip())
    elif "text/plain" in data:
        yield _fenced("{ .text .no-copy .output }", data["text/plain"])


def _fenced(kind: str, text: str) -> str:
    return f"```{kind}\n{text.rstrip()}\n```"
