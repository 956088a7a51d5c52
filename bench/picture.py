"""Draw docs/default-run.svg: the terminal after `nanochat train`, with no options.

    python -m bench.picture

The command runs in an empty folder. Lines wider than the picture end in an ellipsis.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "default-run.svg"
WIDTH = 96  # columns


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    command = ["nanochat", "train"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=True,
        )  # fmt: skip
    PICTURE.write_text(drawn(" ".join(command), done.stdout), encoding="utf-8")
    print(PICTURE)


def drawn(command: str, output: str) -> str:
    """The SVG of a terminal that shows the command and its output, without web fonts."""
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {command}", style="bold green"), no_wrap=True)
        for line in output.splitlines():
            console.print(Text(line), no_wrap=True, overflow="ellipsis")
    svg = console.export_svg(title=command)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    main()
